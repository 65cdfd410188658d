# Serves the volume v1 on one brick, as the first process of namespaces of its own (mounts and processes): the
# socket of gluster's command line has one name for all, and the brick's process outlives glusterd.
#
#   gluster.sh WORK ADDRESS BRICK_BYTES     (0: the brick is a plain directory)
#
# Makes WORK/ready when the volume can be mounted.
set -eu
work=$1 address=$2 brick_bytes=$3
mkdir "$work/log" "$work/state" "$work/brick"
mount -t tmpfs tmpfs /run
mkdir /run/gluster
mkdir -p /var/log/glusterfs
mount --bind "$work/log" /var/log/glusterfs
if [ "$brick_bytes" != 0 ]; then
  truncate -s "$brick_bytes" "$work/image"
  mkfs.ext4 -q -m 0 -O ^has_journal "$work/image"
  mount -o loop "$work/image" "$work/brick"
fi
cat >"$work/glusterd.vol" <<X
volume management
    type mgmt/glusterd
    option working-directory $work/state
    option transport-type socket
    option transport.socket.listen-port 24007
    option ping-timeout 0
    option event-threads 1
    option max-port 60999
end-volume
X
glusterd --no-daemon --volfile="$work/glusterd.vol" --log-file="$work/log/glusterd.log" &
# The test gives up waiting for WORK/ready, and ends this.
until gluster --mode=script volume list >/dev/null 2>&1; do sleep 0.05; done
gluster --mode=script volume create v1 "$address:$work/brick/v1" force
# By default a tenth of the brick is kept free, with a check every few seconds: here it fills up for good.
gluster --mode=script volume set v1 storage.reserve 0
gluster --mode=script volume start v1
touch "$work/ready"
wait
