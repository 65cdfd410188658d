# The API by hand, which is the pull half of the OCI distribution API.
mirror=http://127.0.0.1:5000

# A manifest of Docker Hub, the default upstream, by tag.
curl --fail --header 'Accept: application/vnd.oci.image.index.v1+json' \
  --header 'Accept: application/vnd.oci.image.manifest.v1+json' \
  "$mirror/v2/library/busybox/manifests/latest"

# Any other host goes before the name, or into the query.
curl --fail "$mirror/v2/docker.io/library/busybox/tags/list"
curl --fail "$mirror/v2/library/busybox/tags/list?ns=docker.io"
