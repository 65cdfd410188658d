# Makes a node: the first process of mount and process namespaces of its own, whose / is the programs of a Debian
# tree and directories of its own. With this process ends everything that runs and is mounted on the node.
#
#   setup.sh TREE ROOT WHARF SHARED
#
# TREE: the tree, read-only. ROOT: an empty directory. WHARF: the program under test, which becomes /opt/wharf.
# SHARED: where the host has the file system that nodes share; the node has it at /shared.
# A plain chroot is not enough: runc needs / to be a mount point.
set -eu
tree=${1%/} root=$2 wharf=$3 shared=$4
mount --bind "$root" "$root"
cd "$root"
mkdir -p etc var/lib var/log var/tmp tmp run mnt opt root proc sys dev shared
chmod 1777 tmp var/tmp
ln -s /run var/run
for name in usr bin sbin lib lib32 lib64 libx32; do
  if [ -L "$tree/$name" ]; then
    cp -a "$tree/$name" "$name"
  elif [ -d "$tree/$name" ]; then
    mkdir "$name"
    mount --bind "$tree/$name" "$name"
    mount -o remount,bind,ro "$name"
  fi
done
for name in alternatives group hosts ld.so.cache ld.so.conf ld.so.conf.d nsswitch.conf passwd protocols \
  resolv.conf services ssl subgid subuid; do
  if [ -e "$tree/etc/$name" ]; then cp -rL "$tree/etc/$name" etc/ 2>/dev/null || cp -a "$tree/etc/$name" etc/; fi
done
touch opt/wharf
mount --bind "$wharf" opt/wharf
mount --bind "$shared" shared
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs -o mode=755 tmpfs run
mkdir run/old
pivot_root . run/old
cd /
umount -l /run/old
rmdir /run/old
touch /ready
# What outlives its parent becomes this one's child.
while :; do
  sleep 3600 &
  wait
done
