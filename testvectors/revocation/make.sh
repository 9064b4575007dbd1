#!/bin/sh
# Makes the vectors of this directory anew with OpenSSL 3; README.md says what each is. The keys are thrown away by being public.
set -eu
cd "$(dirname "$0")"
days=36500
key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 | openssl pkcs8 -topk8 -nocrypt -outform DER -out "$1.p8"; }
child() { # name, serial, extensions
    key "$1"
    openssl req -new -key "$1.p8" -keyform DER -subj "/CN=$1" -out "$1.csr"
    printf '%s\n' "$3" >"$1.ext"
    openssl x509 -req -in "$1.csr" -CA issuer.cer -CAkey issuer.p8 -CAkeyform DER -set_serial "$2" -days $days -extfile "$1.ext" \
        -outform DER -out "$1.cer"
    rm "$1.csr" "$1.ext"
}
key issuer
openssl req -x509 -new -key issuer.p8 -keyform DER -subj "/O=Example/CN=Status Issuer" -days $days -set_serial 1 \
    -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -outform DER -out issuer.cer
child responder 0x40000000000000000000000000000000000000aa "extendedKeyUsage=OCSPSigning
keyUsage=critical,digitalSignature
noCheck=ignored"
child first 0x4a5b6c7d8e9f00112233445566778899aabbccdd "keyUsage=critical,digitalSignature"
child second 0x00c0ffee "keyUsage=critical,digitalSignature"
ask() { out=$1; shift; openssl ocsp -issuer issuer.cer "$@" -reqout "$out.ocsp-request"; }
ask openssl-sha1 -cert first.cer -no_nonce
ask openssl-sha1-nonce -cert first.cer
ask openssl-sha256 -sha256 -cert first.cer -no_nonce
ask openssl-sha384 -sha384 -cert first.cer -no_nonce
ask openssl-sha512 -sha512 -cert first.cer -no_nonce
ask openssl-two -cert first.cer -cert second.cer -no_nonce
openssl pkey -in second.p8 -inform DER -out second.pem
openssl x509 -in second.cer -inform DER -out second-certificate.pem
ask openssl-signed -cert first.cer -no_nonce -signer second-certificate.pem -signkey second.pem
rm second.pem second-certificate.pem first.p8 second.p8
