# The image of hi: one static binary and the certificates of the public authorities. docs/deploy.md says how to run it.
#   docker build -t hi .
#   docker build -t hi --build-arg FEATURES= .      the server alone, without `hi doctor`, `hi pub` and `hi rooms`
FROM rust:1.95-slim-trixie AS build
ARG FEATURES=doctor
WORKDIR /build
COPY . .
RUN ./release --static --locked --no-default-features --features "$FEATURES"

FROM scratch
# For `hi doctor wss://...` and --public-url.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /build/target/shipped/hi /hi
USER 65532:65532
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/hi", "health"]
ENTRYPOINT ["/hi"]
