#!/bin/sh
# $LAYERD once more, in the place of a peer: a program that takes a root and a socket.
set -eu
exec "$LAYERD" --root "$1" --socket "$2" --log-level warn
