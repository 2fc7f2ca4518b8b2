# Stops the service and detaches when the package is removed. An upgrade leaves everything attached.
if [ "$1" -eq 0 ]; then
	if command -v systemctl >/dev/null; then
		systemctl --no-reload disable defender.service || :
	fi
	if [ -d /run/systemd/system ]; then
		systemctl stop defender.service 'defender@*.service' || :
	fi
	if [ -d /sys/fs/bpf/defender ]; then
		defender detach || echo "syn-defender: programs may still be attached to interfaces" >&2
	fi
fi
