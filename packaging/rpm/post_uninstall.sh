# Forgets the removed unit. State stays, as is the custom: /var/lib/defender and changed files of /etc/defender.
if [ "$1" -eq 0 ]; then
	if [ -d /run/systemd/system ]; then
		systemctl daemon-reload || :
	fi
	rm -rf /run/defender /sys/fs/bpf/defender /sys/fs/bpf/defender-*
	# The package has files and no directories.
	for directory in /etc/defender /usr/share/syn-defender/* /usr/share/syn-defender /usr/share/doc/syn-defender \
		/usr/share/licenses/syn-defender; do
		rmdir "$directory" 2>/dev/null || :
	done
fi
