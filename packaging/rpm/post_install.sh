# Enables the service as the system's presets say; after an upgrade, replaces its program without detaching.
[ -d /run/systemd/system ] && systemctl daemon-reload || :
if [ "$1" -eq 1 ]; then
	command -v systemctl >/dev/null && systemctl --no-reload preset defender.service || :
elif [ -d /run/systemd/system ]; then
	systemctl try-restart defender.service 'defender@*.service' || :
fi
