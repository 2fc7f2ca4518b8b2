# Forgets the removed unit. State stays, as is the custom: /var/lib/defender and changed files of /etc/defender.
if [ "$1" -eq 0 ]; then
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload || :
	fi
	rm -rf /run/defender /sys/fs/bpf/defender /sys/fs/bpf/defender-*
fi
