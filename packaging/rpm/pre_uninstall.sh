# Stops the service and detaches when the package is removed. An upgrade leaves everything attached.
if [ "$1" -eq 0 ]; then
	if command -v systemctl >/dev/null; then
		systemctl --no-reload disable defender.service || :
	fi
	if [ -d /run/systemd/system ]; then
		systemctl stop defender.service 'defender@*.service' || :
	fi
	for pins in /sys/fs/bpf/defender /sys/fs/bpf/defender-*; do
		if [ -d "$pins" ]; then
			defender --pin-root "$pins" detach || echo "syn-defender: programs may still be attached to interfaces" >&2
		fi
	done
fi
