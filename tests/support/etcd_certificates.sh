#!/bin/sh
# etcd_certificates.sh DIR: a CA, a server for 127.0.0.1 and a client of it; and another CA.
set -eu
cd "$1"
curve="-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes"
authority() {
    # shellcheck disable=SC2086
    openssl req -x509 $curve -keyout "$1.key" -out "$1.pem" -days 2 -subj "/CN=$1"
}
signed() {
    # shellcheck disable=SC2086
    openssl req $curve -keyout "$1.key" -out "$1.csr" -subj "/CN=$1"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -out "$1.pem" \
        -extfile "$1.ext"
}
echo "subjectAltName=IP:127.0.0.1" >server.ext
echo "subjectAltName=DNS:coordinator.test" >client.ext
authority ca
authority other
signed server
signed client
