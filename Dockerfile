# The bridge in a container. README.md says how to run it.
#
#     docker build --tag dht-prometheus .

ARG RUST=1.95
ARG DEBIAN=trixie

# The workspace with its crates emptied: all that the layer of built dependencies depends on. It
# stays the same, and that layer is reused, until a manifest or the lock file changes.
FROM rust:${RUST}-slim-${DEBIAN} AS skeleton
WORKDIR /project
COPY . .
RUN find . -type f \
      ! -name Cargo.toml ! -name Cargo.lock ! -path './.cargo/*' \
      ! -path '*/src/lib.rs' ! -path '*/src/main.rs' ! -path '*/benches/*.rs' \
      -delete \
    && find . -name '*.rs' -exec truncate --size 0 {} + \
    && find . -name main.rs -exec sh -c 'for main; do echo "fn main() { }" > "$main"; done' sh {} +

FROM rust:${RUST}-slim-${DEBIAN} AS build
WORKDIR /project
ENV CARGO_PROFILE_RELEASE_DEBUG=none
COPY --from=skeleton /project .
RUN cargo build --release --locked --package dht-prometheus
COPY . .
# What is copied may be older than what was built of the empty crates, and cargo goes by age.
RUN find . -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --package dht-prometheus

# The same Debian as the compiler's, for the same C library; nothing else is needed of it but a
# shell for whoever looks into a container.
FROM debian:${DEBIAN}-slim
# The user and group id of the Node bridge's image: folders that were mounted there stay writable.
RUN groupadd --gid 4820 dht-prometheus \
    && useradd --uid 4820 --gid 4820 --create-home dht-prometheus \
    && install --directory --owner 4820 --group 4820 /home/dht-prometheus/prometheus
COPY LICENSE /usr/share/doc/dht-prometheus/
COPY --from=build /project/target/release/dht-prometheus /usr/local/bin/
USER 4820
WORKDIR /home/dht-prometheus
# Under the weaker of the two prefixes, so that both DHT_PROM_... and HYPERDHT_PROM_... of a
# container's own environment win.
ENV HYPERDHT_PROM_PROMETHEUS_TARGETS_LOC=/home/dht-prometheus/prometheus/targets.json \
    HYPERDHT_PROM_HTTP_PORT=30000
HEALTHCHECK --interval=30s --timeout=5s --start-period=10s CMD ["dht-prometheus", "healthcheck"]
ENTRYPOINT ["dht-prometheus"]
