#!/bin/bash
# Plays a day of Docker 28 on layerd: builds, containers, volumes, mounts, and a MariaDB whose data
# outlives its containers. Uses a layerd, a containerd and a Docker of its own in the places where
# packages have theirs: /etc, /run, /srv and /var/lib are its own, too, below target/demo-docker/, and
# there is no network. Ends with an error at the first check that does not hold. `make demo-docker`
# runs it, as root; its transcript is:
#
#     make -s demo-docker > docs/evidence/demo-docker.txt
set -euo pipefail

# In namespaces of its own, so that nothing outlives it, however it ends, and that no other machine
# can be reached.
if [[ ${1:-} != inside ]]; then
    ((EUID == 0)) || { echo "docker.sh: must run as root: it mounts and starts containers" >&2 && exit 1; }
    exec unshare --mount --propagation private --net --uts --pid --fork --kill-child --mount-proc "$0" inside
fi

cd "$(dirname "$0")/../.."
bin=$PWD/target/debug
peers=$PWD/target/peers
demo=$PWD/target/demo-docker
config=/etc/layerd/config.toml
pids=()
# The builder without BuildKit: Debian packages the other one separately.
export DOCKER_BUILDKIT=0 DOCKER_CONFIG=/etc/docker/client
export PATH=$bin:$peers/docker-28/usr/bin:$peers/docker-28/usr/sbin:$peers/containerd-2.1/usr/bin:$PATH

. integration/demos/transcript.sh

# Prints a command as a person would type it.
typed() {
    local word
    printf '$'
    for word; do
        [[ $word =~ ^[A-Za-z0-9_./:=,@+-]+$ ]] && printf ' %s' "$word" || printf ' %s' "${word@Q}"
    done
    echo
}

# Shows a command that has to succeed.
must() {
    typed "$@"
    "$@" 2>&1 || die "failed: $*"
}

# Shows a command that has to be refused, with these words.
refused() {
    local words=$1 said
    shift
    typed "$@"
    ! said=$("$@" 2>&1) || die "was not refused: $*"
    echo "$said"
    grep -qF -- "$words" <<<"$said" || die "was refused without the words: $words"
}

# Prints a sentence that holds if the command succeeds, and ends the story if not.
check() {
    local what=$1
    shift
    ("$@") >/dev/null 2>&1 || die "does not hold: $what ($*)"
    echo "holds: $what"
}

same() {
    [[ $1 == "$2" ]]
}

# Prints the output of a container of an image.
output() {
    docker run --network none --rm "$@"
}

start_daemons() {
    layerd --config $config >>"$demo/layerd.log" 2>&1 &
    pids=($!)
    await layerctl info
    # containerd has to know layerd before it starts.
    layerctl setup containerd --write >>"$demo/setup.log" 2>&1
    containerd >>"$demo/containerd.log" 2>&1 &
    pids+=($!)
    await ctr version
    dockerd >>"$demo/dockerd.log" 2>&1 &
    pids+=($!)
    await docker version
}

# Its own /etc, /run, /srv and /var/lib.
own_places() {
    mount -t overlay none -o "lowerdir=/etc,upperdir=$demo/etc,workdir=$demo/work" /etc
    mount --bind "$demo/lib" /var/lib
    mount --bind "$demo/srv" /srv
    mount -t tmpfs none /run
    ip link set lo up
    hostname demo
}

configure() {
    mkdir -p /etc/layerd /etc/containerd/conf.d /etc/docker /run/docker/plugins
    # How full the disk of this machine is, is no part of the story.
    sed 's/^#min_free_percent = .*/min_free_percent = 0/; s/^#import_keep_percent = .*/import_keep_percent = 0/
        /^\[docker\]/,/^\[unpack\]/ s|^#socket = .*|socket = "/run/docker/plugins/layerd.sock"|' deploy/config.toml >$config
    cat >/etc/containerd/config.toml <<'END'
version = 3
imports = ["/etc/containerd/conf.d/*.toml"]
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime",
    "io.containerd.nri.v1.nri", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper"]
END
    cat >/etc/docker/daemon.json <<'END'
{ "features": { "containerd-snapshotter": true }, "storage-driver": "layerd", "live-restore": true,
  "containerd": "/run/containerd/containerd.sock", "bridge": "none", "iptables": false, "ip6tables": false }
END
}

# The image `base`, one layer of busybox, and the context of the image `app`, of five steps.
make_context() {
    local applet
    mkdir -p base/{bin,dev,proc,run,sys,tmp} app
    cp /bin/busybox base/bin/
    for applet in cat df echo grep ls mkdir rm sh sleep touch; do ln -s busybox "base/bin/$applet"; done
    tar -C base --owner=0 --group=0 --numeric-owner -c . | docker import - base >/dev/null
    echo "first" >app/first
    echo "the last step of Monday" >app/last
    cat >app/Dockerfile <<'END'
FROM base
COPY first /first
RUN mkdir /kept && echo kept > /kept/file
RUN echo two > /two
COPY last /last
END
}

# The image `debian` of debootstrap's tree, and the context of the image `mariadb`.
make_database_context() {
    mkdir -p mariadb
    cp -r "$peers/mariadb/debs" mariadb/
    tar -C "$peers/debian-trixie/tree" --numeric-owner -c . | docker import - debian:trixie >/dev/null
    cat >mariadb/Dockerfile <<'END'
FROM debian:trixie
COPY debs /debs
RUN printf '#!/bin/sh\nexit 101\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d
RUN DEBIAN_FRONTEND=noninteractive apt-get install --yes --no-install-recommends /debs/*.deb > /var/log/install 2>&1
RUN mkdir -p /run/mysqld && chown mysql:mysql /run/mysqld
CMD ["mariadbd", "--user=mysql", "--skip-networking"]
END
}

# The layers of an image, one a line.
layers() {
    docker image inspect --format '{{range .RootFS.Layers}}{{println .}}{{end}}' "$1" | grep .
}

# The layers of images that layerd has.
committed() {
    layerctl snapshot ls -q --kind committed | grep '/sha256:' | sort
}

new_of() {
    comm -13 <(sort <<<"$1") <(sort <<<"$2") | grep -c .
}

# Succeeds if the command does and its output has this line.
has() {
    local line=$1 lines
    lines=$("${@:2}") && grep -qxF -- "$line" <<<"$lines"
}

# As has, for a line that is not there.
lacks() {
    local line=$1 lines
    lines=$("${@:2}") && ! grep -qxF -- "$line" <<<"$lines"
}

# Succeeds if the command does and prints nothing.
is_silent() {
    local said
    said=$("$@") && [[ -z $said ]]
}

is_held_by() {
    layerctl who-uses -o json "$1" | grep -qF "\"$2\""
}

# Runs a database on a volume and waits until it answers.
database() {
    must docker run --network none --detach --name "$1" --volume-driver layerd -v "$2:/var/lib/mysql" mariadb
    patience=60 await sql "$1" "select 1"
}

sql() {
    docker exec "$1" mariadb --skip-column-names --batch -e "$2"
}

# The number of orders, and their sum, as a database sees them.
orders() {
    sql "$1" "select count(*), sum(amount) from shop.orders" | tr '\t' ' '
}

play_builds() {
    local said first second before
    say "An image of five steps, on a base of one layer."
    must cat app/Dockerfile
    must docker build --network none --tag app:monday app
    first=$(layers app:monday)
    before=$(committed)
    check "the image has five layers" same "$(wc -l <<<"$first")" 5

    say "The same again: each step is cached, and layerd gets no new layer."
    typed docker build --network none --tag app:again app
    said=$(docker build --network none --tag app:again app 2>&1)
    echo "$said"
    check "four steps of four are cached" same "$(grep -c 'Using cache' <<<"$said")" 4
    check "both names are one image" same "$(layers app:again)" "$first"
    check "layerd has the same layers as before" same "$(committed)" "$before"

    say "The last step changes: one new layer, on the four that are there."
    must cp tuesday app/last
    typed docker build --network none --tag app:tuesday app
    said=$(docker build --network none --tag app:tuesday app 2>&1)
    echo "$said"
    second=$(layers app:tuesday)
    check "three steps of four are cached" same "$(grep -c 'Using cache' <<<"$said")" 3
    check "the two images share four layers" same "$(head -n 4 <<<"$second")" "$(head -n 4 <<<"$first")"
    check "one layer of the image is new" same "$(new_of "$first" "$second")" 1
    check "layerd has one layer more" same "$(new_of "$before" "$(committed)")" 1
    must layerctl snapshot tree
}

play_containers() {
    local name
    say "Two containers on one image write to the same file."
    for name in left right; do
        must docker run --network none --detach --name $name app:tuesday sh -c "echo $name > /first; touch /$name; exec sleep 1000"
        await docker exec $name ls /$name
    done
    must docker exec left cat /first
    must docker exec right cat /first
    check "left reads its own file" same "$(docker exec left cat /first)" left
    check "right reads its own file" same "$(docker exec right cat /first)" right
    check "left does not have right's file" lacks right docker exec left ls /
    check "right does not have left's file" lacks left docker exec right ls /
    must docker diff left
    must docker run --network none --rm app:tuesday cat /first
    check "a new container has the file of the image" same "$(output app:tuesday cat /first)" first
    must docker rm --force left right
}

play_mounts() {
    say "-v with a volume that does not exist: it appears by itself, on layerd."
    check "layerd has no volume notes" lacks notes layerctl volume ls -q
    must docker run --network none --rm --volume-driver layerd -v notes:/notes app:tuesday sh -c "echo remember > /notes/file"
    must docker volume ls
    must layerctl volume ls
    check "layerd has the volume notes" has notes layerctl volume ls -q
    must docker run --network none --rm --mount type=volume,src=notes,dst=/notes,volume-driver=layerd app:tuesday cat /notes/file
    check "the next container reads it" same "$(output -v notes:/notes app:tuesday cat /notes/file)" remember

    say "--mount with a source that does not exist is refused: by Docker for a directory, by layerd for a volume."
    refused "bind source path does not exist" docker run --network none --mount type=bind,src=/srv/missing,dst=/data app:tuesday ls /data
    check "no directory was made" test ! -e /srv/missing
    refused 'volume "missing" does not exist' layerctl attach --owner container:web --mount type=volume,src=missing,dst=/data
    check "no volume was made" lacks missing layerctl volume ls -q

    say "Docker itself creates a volume for --mount as it does for -v, whatever its driver."
    must docker run --network none --rm --mount type=volume,src=made,dst=/data,volume-driver=layerd app:tuesday ls /data
    check "layerd has the volume made" has made layerctl volume ls -q
    must docker volume rm made

    say "A bind mount: a directory of the host, read-only and writable."
    mkdir -p www
    echo "hello" >www/index
    must docker run --network none --rm -v /srv/www:/www:ro app:tuesday cat /www/index
    refused "Read-only file system" docker run --network none --rm -v /srv/www:/www:ro app:tuesday touch /www/new
    must docker run --network none --rm --mount type=bind,src=/srv/www,dst=/www app:tuesday sh -c "echo changed > /www/index"
    check "the host has what the container wrote" same "$(cat www/index)" changed

    say "A tmpfs: memory, gone with the container."
    must docker run --network none --name scratch \
        --tmpfs /scratch:size=8m app:tuesday sh -c "echo secret > /scratch/file; grep /scratch /proc/mounts"
    must docker diff scratch
    check "it was a tmpfs of 8 MiB" grep -q '^tmpfs /scratch tmpfs .*size=8192k' <(docker logs scratch)
    check "the container's layer has no such file" lacks 'A /scratch/file' docker diff scratch
    must docker rm scratch
}

play_database() {
    say "A database: MariaDB of Debian's packages, installed in a tree of debootstrap, offline."
    must cat mariadb/Dockerfile
    must docker build --network none --tag mariadb mariadb
    must docker images

    say "Its data is on a volume of layerd, which Docker fills from the image."
    must docker volume create --driver layerd --opt size=1g shop
    database db shop
    must docker exec db mariadb -e "create database shop; create table shop.orders (id int primary key, amount int)"
    must docker exec db mariadb -e "insert into shop.orders select seq, seq * 10 from shop.seq_1_to_1000"
    check "1000 orders are written" same "$(orders db)" "1000 5005000"
    await is_held_by shop plugin:docker/db
    must docker volume inspect shop
    must layerctl who-uses shop
    refused "is in use by plugin docker/" layerctl volume rm shop

    say "It is killed, and its container removed. A new container on the volume has the data."
    must docker kill --signal KILL db
    must docker rm db
    database db shop
    must docker exec db mariadb -e "select count(*), sum(amount) from shop.orders"
    check "all orders are there" same "$(orders db)" "1000 5005000"
}

play_copies() {
    say "A snapshot of the volume, while the database is paused, and a second database on a clone of it."
    must docker pause db
    must layerctl volume snapshot shop shop-monday
    must docker unpause db
    must layerctl volume clone shop-monday shop-test
    database test shop-test
    check "the clone has all orders" same "$(orders test)" "1000 5005000"
    must docker exec test mariadb -e "delete from shop.orders where id > 10"
    must docker exec db mariadb -e "insert into shop.orders values (1001, 1)"
    check "the second database lost most" same "$(orders test)" "10 550"
    check "the first one did not, and got one more" same "$(orders db)" "1001 5005001"

    say "The snapshot goes to a file, and comes back as another volume, as on another machine."
    must layerctl volume export shop-monday /srv/shop.tar
    must layerctl volume import shop-elsewhere /srv/shop.tar
    database elsewhere shop-elsewhere
    check "the imported volume has all orders" same "$(orders elsewhere)" "1000 5005000"
    must docker volume ls
}

play_end() {
    local daemon
    say "All of it at the end."
    must docker ps --format '{{.Names}}: {{.Image}}, {{.Status}}'
    await is_held_by shop-elsewhere plugin:docker/elsewhere
    must docker info
    must layerctl info
    must layerctl du
    must layerctl volume usage --exact notes shop shop-monday shop-test shop-elsewhere
    must layerctl who-uses shop
    must layerctl fsck
    check "Docker's storage driver is layerd" same "$(docker info --format '{{.Driver}}')" layerd
    check "layerd is a volume plugin of Docker" grep -q layerd <(docker info --format '{{.Plugins.Volume}}')

    say "Everything is removed again."
    must docker rm --force db test elsewhere
    must docker volume rm shop shop-monday shop-test shop-elsewhere notes
    must docker system prune --all --force
    check "no volume is left" is_silent layerctl volume ls -q
    check "no snapshot is left" await no_snapshots
    check "layerd logged no error" is_silent errors
    # The last one first; what has ended by itself is an error.
    for daemon in 2 1 0; do
        kill "${pids[daemon]}" && wait "${pids[daemon]}" || die "a daemon did not end well; see the logs in $demo"
    done
    cd /
    check "nothing holds their directories, and nothing of a container is mounted" unmounts
}

unmounts() {
    ! grep moby /proc/self/mountinfo && umount --recursive /var/lib && umount /srv
}

errors() {
    sed -n '/ERROR/p' "$demo/layerd.log"
}

no_snapshots() {
    ctr --namespace moby content prune references
    is_silent layerctl snapshot ls -q
}

[[ -x $bin/layerd && -x $bin/layerctl ]] || die "run \`cargo build\` first"
[[ -e $peers/docker-28/VERSIONS && -e $peers/mariadb/VERSIONS ]] || die "run \`integration/peers/install.sh mariadb\` first"
rm -rf --one-file-system "$demo"
mkdir -p "$demo"/{lib,etc,work,srv}
own_places
configure
start_daemons
cd /srv
echo "the last step of Tuesday" >tuesday
make_context
say "Docker 28 with layerd as its storage driver. This is all that it is told:"
must cat /etc/docker/daemon.json
must docker version --format 'Docker {{.Server.Version}}'
play_builds
play_containers
play_mounts
make_database_context
play_database
play_copies
play_end
# The logs stay.
rm -rf --one-file-system "$demo"/{lib,srv}
