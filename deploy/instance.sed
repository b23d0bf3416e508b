# Makes layerd@.service of layerd.service: the same daemon and the same limits, with a configuration, a socket
# and data of its own.
#
#   sed -f instance.sed layerd.service >layerd@.service
1i # Made of layerd.service by instance.sed. layerd@NAME.service runs one more layerd, with the configuration\
# /etc/layerd/NAME.toml, the socket /run/layerd/NAME.sock, and its data where containerd looks for those of the\
# snapshotter layerd-NAME: `layerctl setup containerd --instance NAME` makes it known by that name. NAME has up to\
# 32 lower-case letters, digits and -.\
#
s/^Description=.*/&: instance %i/
s/layerd\.socket layerd-docker\.socket/layerd@%i.socket/
s/^\(Requires=\|After=\)layerd\.socket/\1layerd@%i.socket/
s/^RequiresMountsFor=.*/&-%i/
s|^ExecStart=.*|ExecStart=/usr/bin/layerd --config /etc/layerd/%i.toml --socket /run/layerd/%i.sock --root /var/lib/containerd/io.containerd.snapshotter.v1.layerd-%i|
