# Stops the service and detaches when the package is removed. An upgrade leaves everything attached.
if [ "$1" -eq 0 ]; then
	command -v systemctl >/dev/null && systemctl --no-reload disable defender.service || :
	[ -d /run/systemd/system ] && systemctl stop defender.service 'defender@*.service' || :
	if [ -d /run/defender ] || [ -d /sys/fs/bpf/defender ]; then
		defender detach || echo "syn-defender: programs may still be attached to interfaces" >&2
	fi
fi
