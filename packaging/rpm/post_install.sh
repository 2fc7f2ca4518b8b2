# Enables the service as the system's presets say; after an upgrade, replaces its program without detaching.
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload || :
fi
if [ "$1" -eq 1 ]; then
	if command -v systemctl >/dev/null; then
		systemctl --no-reload preset defender.service || :
	fi
elif [ -d /run/systemd/system ]; then
	systemctl try-restart defender.service 'defender@*.service' || :
fi
