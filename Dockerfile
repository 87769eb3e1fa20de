# syntax=docker/dockerfile:1

# Build: the image has the C and C++ toolchain, make, and the zlib and OpenSSL headers that librdkafka needs.
FROM rust:1.95-bookworm AS build
WORKDIR /src
# The dependencies are built before the sources are there, so that a changed source does not build them again.
COPY Cargo.toml Cargo.lock ./
RUN mkdir src && echo 'fn main() {}' > src/main.rs && touch src/lib.rs \
    && cargo build --release --locked \
    && rm -r src
COPY . .
ENV SQLX_OFFLINE=true
RUN touch src/main.rs src/lib.rs && cargo build --release --locked

FROM debian:bookworm-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libssl3 zlib1g \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 10001 standpipe \
    && useradd --uid 10001 --gid standpipe --home-dir /var/lib/standpipe --create-home --shell /usr/sbin/nologin standpipe \
    && install -d -o standpipe -g standpipe -m 0750 /var/lib/standpipe /etc/standpipe
COPY --from=build /src/target/release/standpipe /usr/local/bin/standpipe
USER 10001:10001
WORKDIR /var/lib/standpipe
ENV STANDPIPE_CONFIG=/etc/standpipe/standpipe.toml \
    STANDPIPE__SERVER__METRICS_LISTEN=0.0.0.0:9464
VOLUME /var/lib/standpipe
EXPOSE 8080 9464
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=15s --timeout=6s --start-period=45s --retries=3 CMD ["standpipe", "healthcheck"]
ENTRYPOINT ["standpipe"]
CMD ["run"]
