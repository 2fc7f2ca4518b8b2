#!/bin/sh
# Posts an event of the defender to a webhook: the JSON on standard input is the body.
#
#     [hooks]
#     on_event = ["/usr/share/doc/syn-defender/examples/webhook.sh", "https://hooks.example.org/defender"]
#
# A server that is down, busy or answers 5xx is tried again, and all ends before the time limit of hooks (10 s). The exit
# status is curl's, so that `defender status` counts what could not be delivered.
set -eu

if [ $# -ne 1 ]; then
    echo "usage: webhook.sh URL" >&2
    exit 2
fi

exec curl --silent --show-error --fail --output /dev/null \
    --connect-timeout 3 --max-time 4 --retry 2 --retry-delay 1 --retry-max-time 4 --retry-connrefused \
    --header 'Content-Type: application/json' --data-binary @- "$1"
