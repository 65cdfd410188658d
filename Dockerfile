# The mirror alone, as a user that is not root:
#
#   docker build -t wharf .
#   chown 65532:65532 /srv/wharf
#   docker run --detach --publish 5000:5000 --volume /srv/wharf:/var/lib/wharf/store wharf
#
# Serving blobs needs no privilege. Extracting layers needs root
# (`--user 0`) with CAP_SYS_ADMIN, CAP_MKNOD, CAP_CHOWN, CAP_FOWNER, CAP_DAC_OVERRIDE, CAP_SETFCAP and
# CAP_FSETID (`--cap-add`): it makes device nodes, other users' files and trusted.* attributes.

FROM rust:1.95.0-bookworm AS build
# Wins over rust-toolchain.toml, for whose other components rustup would ask the network.
ENV RUSTUP_TOOLCHAIN=1.95.0
WORKDIR /src
COPY . .
RUN cargo build --release --locked --package wharf --bin wharf \
    && mkdir -p /var/lib/wharf/store /var/lib/wharf/index

# glibc, libgcc and CA certificates; no shell and no package manager.
FROM gcr.io/distroless/cc-debian12
COPY --from=build /src/target/release/wharf /usr/local/bin/wharf
COPY --from=build --chown=65532:65532 /var/lib/wharf /var/lib/wharf
USER 65532:65532
WORKDIR /var/lib/wharf
EXPOSE 5000
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/wharf"]
CMD ["serve", "--store", "/var/lib/wharf/store", "--index", "/var/lib/wharf/index"]
