#!/usr/bin/env python3
"""Makes the requests of this directory with OpenSSL 3 and writes expectations.txt. Keys are new on every run and thrown away.

Requests that OpenSSL does not make (no attributes, weak keys, damaged encodings) are assembled here and signed by OpenSSL, so that
each bad request is bad in one respect only.
"""
import hashlib
import math
import os
import secrets
import subprocess
import tempfile

here = os.path.dirname(os.path.abspath(__file__))
work = tempfile.mkdtemp()
expectations = []


def openssl(*arguments, stdin=b""):
    return subprocess.run(["openssl", *arguments], input=stdin, capture_output=True, check=True, cwd=work).stdout


def write(name, der, expected, why):
    with open(os.path.join(here, name), "wb") as file:
        file.write(der)
    expectations.append(f"{name} {expected} {why}")


# DER

def tlv(tag, *parts):
    body = b"".join(parts)
    if len(body) < 128:
        return bytes([tag, len(body)]) + body
    length = len(body).to_bytes((len(body).bit_length() + 7) // 8, "big")
    return bytes([tag, 128 + len(length)]) + length + body


def sequence(*parts): return tlv(0x30, *parts)
def integer(n): return tlv(0x02, n.to_bytes(n.bit_length() // 8 + 1, "big"))
def bits(octets): return tlv(0x03, b"\0", octets)


def oid(dotted):
    first, second, *rest = map(int, dotted.split("."))
    out = []
    for arc in [40 * first + second, *rest]:
        chunk = [arc & 127]
        while arc := arc >> 7:
            chunk.insert(0, 128 | arc & 127)
        out += chunk
    return tlv(0x06, bytes(out))


NULL = b"\x05\0"
RSA, EC = oid("1.2.840.113549.1.1.1"), oid("1.2.840.10045.2.1")
P256 = oid("1.2.840.10045.3.1.7")
ECDSA_SHA256 = sequence(oid("1.2.840.10045.4.3.2"))
RSA_SHA256 = sequence(oid("1.2.840.113549.1.1.11"), NULL)
SUBJECT = sequence(tlv(0x31, sequence(oid("2.5.4.3"), tlv(0x0C, b"host.example"))))
CHALLENGE, EXTENSION_REQUEST = oid("1.2.840.113549.1.9.7"), oid("1.2.840.113549.1.9.14")
MICROSOFT_EXTENSION_REQUEST = oid("1.3.6.1.4.1.311.2.1.14")
UNSTRUCTURED_NAME = oid("1.2.840.113549.1.9.2")
SAN = sequence(oid("2.5.29.17"), tlv(0x04, sequence(tlv(0x82, b"host.example"))))
KEY_USAGE = sequence(oid("2.5.29.15"), tlv(0x01, b"\xff"), tlv(0x04, tlv(0x03, b"\x07\x80")))


def attribute(kind, *values): return sequence(kind, tlv(0x31, *values))
def attributes(*them): return tlv(0xA0, *them)


def request(spki, key=None, algorithm=ECDSA_SHA256, digest="-sha256", attrs=attributes(), version=0, subject=SUBJECT):
    """Signed with `key`, or with a made-up signature for keys that are refused anyway."""
    info = sequence(integer(version), subject, spki, attrs)
    signature = openssl("dgst", digest, "-sign", key, stdin=info) if key else secrets.token_bytes(256)
    return sequence(info, algorithm, bits(signature))


# Keys

def key(name, *arguments):
    openssl("genpkey", "-out", name, *arguments)
    return name


def public(name): return openssl("pkey", "-in", name, "-pubout", "-outform", "DER")


p256 = key("p256", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
p384 = key("p384", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")
p521 = key("p521", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-521")
k256 = key("k256", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1")
other = key("other", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256")
rsa2048 = key("rsa2048", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
rsa3072 = key("rsa3072", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:3072")
rsa1024 = key("rsa1024", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024")
rsa_e3 = key("rsa-e3", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-pkeyopt", "rsa_keygen_pubexp:3")
ed25519 = key("ed25519", "-algorithm", "ED25519")
x25519 = key("x25519", "-algorithm", "X25519")


def rsa_spki(n, e, parameters=NULL): return sequence(sequence(RSA, parameters), bits(sequence(integer(n), integer(e))))


def rsa_key(name, p, q, e=65537):
    d = pow(e, -1, math.lcm(p - 1, q - 1))
    der = sequence(*map(integer, [0, p * q, e, d, p, q, d % (p - 1), d % (q - 1), pow(q, -1, p)]))
    with open(os.path.join(work, name), "wb") as file:
        file.write(openssl("rsa", "-inform", "DER", stdin=der))
    return name


SIEVE = [n for n in range(2, 4096) if all(n % d for d in range(2, int(n**0.5) + 1))]


def is_prime(n):
    if any(n % prime == 0 for prime in SIEVE):
        return n in SIEVE
    return all(pow(base, n - 1, n) == 1 for base in (2, 3, 5, 7, 11, 13))


def prime_from(n, step=2):
    while not is_prime(n) or (n - 1) % 65537 == 0:
        n += step
    return n


def random_prime(bit_count): return prime_from(secrets.randbits(bit_count) | 3 << (bit_count - 2) | 1)


def roca_prime(bit_count):
    m = math.prod(SIEVE[:126])  # what the flawed generator used for RSA-2048
    while True:
        k = secrets.randbits(bit_count - m.bit_length()) | 3 << (bit_count - m.bit_length() - 2)
        n = k * m + pow(65537, secrets.randbelow(m), m)
        if n.bit_length() == bit_count and is_prime(n):
            return n


def pem_to_der(pem): return openssl("req", "-outform", "DER", stdin=pem)


def openssl_request(name, digest="-sha256", *more):
    return openssl("req", "-new", "-key", name, digest, "-subj", "/O=Example/CN=host.example", "-outform", "DER", *more)


# Accepted

for name in (p256, p384, p521, rsa2048, rsa3072, ed25519):
    write(f"{name}.der", openssl_request(name), "accepted", "openssl req")
write("p384-sha256.der", openssl_request(p384, "-sha256"), "accepted", "openssl's own choice of digest")
write("p256-sha512.der", openssl_request(p256, "-sha512"), "accepted", "a digest longer than the curve")
write("rsa2048-sha384.der", openssl_request(rsa2048, "-sha384"), "accepted", "openssl req")
write("empty-subject.der", request(public(p256), p256, subject=sequence()), "accepted", "names come from elsewhere")
san = openssl_request(p256, "-sha256", "-addext", "subjectAltName=DNS:host.example", "-addext", "keyUsage=critical,digitalSignature")
write("extensions.der", san, "accepted", "openssl req -addext")
write("p256.pem", openssl("req", "-inform", "DER", stdin=san), "accepted", "PEM")
write("new-label.pem", b"explanatory text\r\n" + openssl("req", "-inform", "DER", "-newhdr", stdin=san).replace(b"\n", b"\r\n"),
      "accepted", "PEM as Windows writes it: NEW CERTIFICATE REQUEST, CRLF, text before")
write("no-attributes.der", request(public(p256), p256, attrs=b""), "accepted", "attributes missing, as some devices send")
write("unsorted-attributes.der", request(public(p256), p256, attrs=attributes(
    attribute(EXTENSION_REQUEST, sequence(SAN)), attribute(CHALLENGE, tlv(0x13, b"secret")))), "accepted",
    "SET OF not sorted: a re-encoding would have another signature")
write("challenge-utf8.der", request(public(p256), p256, attrs=attributes(attribute(CHALLENGE, tlv(0x0C, "pässwort".encode())))),
      "accepted", "challengePassword")
write("challenge-bmp.der", request(public(p256), p256, attrs=attributes(attribute(CHALLENGE, tlv(0x1E, "pässwort".encode("utf-16-be"))))),
      "accepted", "challengePassword as BMPString")
write("challenge-printable-at.der", request(public(p256), p256, attrs=attributes(attribute(CHALLENGE, tlv(0x13, b"a@b_c")))),
      "accepted", "challengePassword as PrintableString with octets that it must not have")
write("challenge-latin1.der", request(public(p256), p256, attrs=attributes(attribute(CHALLENGE, tlv(0x14, "pässwort".encode("latin-1"))))),
      "accepted", "challengePassword as T61String holding ISO 8859-1")
write("microsoft-extensions.der", request(public(p256), p256, attrs=attributes(
    attribute(MICROSOFT_EXTENSION_REQUEST, sequence(SAN, KEY_USAGE)))), "accepted", "extension request under Microsoft's identifier")

# Not well-formed

good = request(public(p256), p256)
write("empty.der", b"", "malformed", "nothing")
write("empty-sequence.der", b"\x30\0", "malformed", "a SEQUENCE of nothing")
write("truncated.der", good[:-1], "malformed", "the last octet is missing")
write("trailing.der", good + b"\0", "malformed", "one octet too many")
write("trailing-inside.der", sequence(sequence(integer(0), SUBJECT, public(p256), attributes(), NULL), ECDSA_SHA256, bits(b"\0" * 70)),
      "malformed", "a field after the attributes")
write("indefinite-length.der", b"\x30\x80" + good[4 if good[1] == 0x82 else 3:] + b"\0\0", "malformed", "BER")
write("long-length.der", b"\x30\x83\0" + (len(good) - (4 if good[1] == 0x82 else 3)).to_bytes(2, "big") + good[4 if good[1] == 0x82 else 3:],
      "malformed", "a length not in its shortest form")
write("version-1.der", request(public(p256), p256, version=1), "malformed", "version must be 0")
nested = NULL
for _ in range(100):
    nested = sequence(nested)
write("deep-nesting.der", request(public(p256), p256, attrs=attributes(attribute(UNSTRUCTURED_NAME, nested))), "malformed", "100 levels")
deepest = NULL
for _ in range(26):
    deepest = sequence(deepest)
write("nesting-at-limit.der", request(public(p256), p256, attrs=attributes(attribute(UNSTRUCTURED_NAME, deepest))), "accepted", "32 levels")
write("nesting-over-limit.der", request(public(p256), p256, attrs=attributes(attribute(UNSTRUCTURED_NAME, sequence(deepest)))),
      "malformed", "33 levels")
write("attribute-twice.der", request(public(p256), p256, attrs=attributes(*[attribute(CHALLENGE, tlv(0x13, b"secret"))] * 2)),
      "malformed", "an attribute twice")
write("extension-twice.der", request(public(p256), p256, attrs=attributes(attribute(EXTENSION_REQUEST, sequence(SAN, SAN)))),
      "malformed", "an extension twice")
write("extension-twice-in-two-attributes.der", request(public(p256), p256, attrs=attributes(
    attribute(MICROSOFT_EXTENSION_REQUEST, sequence(SAN)), attribute(EXTENSION_REQUEST, sequence(SAN)))), "malformed",
    "an extension under both identifiers")
write("extension-request-of-two-values.der", request(public(p256), p256, attrs=attributes(
    attribute(EXTENSION_REQUEST, sequence(KEY_USAGE), sequence(SAN)))), "malformed", "must have one value")
write("extension-request-of-no-value.der", request(public(p256), p256, attrs=attributes(attribute(EXTENSION_REQUEST))),
      "malformed", "must have one value")
write("challenge-not-text.der", request(public(p256), p256, attrs=attributes(attribute(CHALLENGE, integer(7)))), "malformed",
      "challengePassword of a wrong type")
write("challenge-odd-bmp.der", request(public(p256), p256, attrs=attributes(attribute(CHALLENGE, tlv(0x1E, b"abc")))), "malformed",
      "BMPString of three octets")
write("many-attributes.der", request(public(p256), p256, attrs=attributes(
    *[attribute(oid(f"1.3.6.1.4.1.99999.{n}"), NULL) for n in range(65)])), "malformed", "65 attributes")
write("subject-not-a-name.der", request(public(p256), p256, subject=tlv(0x04, b"host")), "malformed", "subject is an OCTET STRING")
write("certificate.pem", openssl("req", "-x509", "-key", p256, "-subj", "/CN=host.example"), "malformed", "another PEM label")
write("not-a-request.txt", b"GET / HTTP/1.1\r\n\r\n", "malformed", "neither DER nor PEM")

# Signature

write("signed-by-another-key.der", request(public(p256), other), "bad-proof", "possession not shown")
write("signature-bit.der", good[:-1] + bytes([good[-1] ^ 1]), "bad-proof", "one bit of the signature")
write("altered-subject.der", good.replace(b"host.example", b"evil.example"), "bad-proof", "subject altered after signing")
write("empty-signature.der", sequence(sequence(integer(0), SUBJECT, public(p256), attributes()), ECDSA_SHA256, bits(b"")), "bad-proof",
      "no signature")
write("sha1.der", openssl_request(rsa2048, "-sha1"), "bad-algorithm", "SHA-1")
write("sha1-ecdsa.der", openssl_request(p256, "-sha1"), "bad-algorithm", "SHA-1")
write("md5.der", openssl_request(rsa2048, "-md5"), "bad-algorithm", "MD5")
write("sha224.der", openssl_request(p256, "-sha224"), "bad-algorithm", "SHA-224")
PSS = ["-sigopt", "rsa_padding_mode:pss", "-sigopt"]
write("pss.der", openssl_request(rsa2048, "-sha256", *PSS, "rsa_pss_saltlen:-1"), "accepted", "RSASSA-PSS")
write("pss-sha384.der", openssl_request(rsa2048, "-sha384", *PSS, "rsa_pss_saltlen:48"), "accepted", "RSASSA-PSS")
write("pss-sha512.der", openssl_request(rsa2048, "-sha512", *PSS, "rsa_pss_saltlen:64"), "accepted", "RSASSA-PSS")
write("pss-short-salt.der", openssl_request(rsa2048, "-sha256", *PSS, "rsa_pss_saltlen:20"), "bad-algorithm",
      "the salt is not as long as the digest")
write("pss-other-mask.der", openssl_request(rsa2048, "-sha256", *PSS, "rsa_pss_saltlen:32", "-sigopt", "rsa_mgf1_md:sha512"),
      "bad-algorithm", "MGF1 with another digest")
write("pss-sha1.der", openssl_request(rsa2048, "-sha1", *PSS, "rsa_pss_saltlen:20"), "bad-algorithm", "SHA-1, all defaults")
write("algorithm-of-another-key.der", request(public(p256), p256, algorithm=RSA_SHA256), "bad-algorithm", "does not fit the key")
write("ecdsa-with-parameters.der", request(public(p256), p256, algorithm=sequence(oid("1.2.840.10045.4.3.2"), NULL)), "bad-algorithm",
      "parameters must be absent")
write("rsa-without-parameters.der", request(public(rsa2048), rsa2048, algorithm=sequence(oid("1.2.840.113549.1.1.11"))), "accepted",
      "RFC 4055 section 5 has them accepted when absent")

# RSA keys

n = random_prime(1024) * random_prime(1024)
write("rsa-1024.der", openssl_request(rsa1024), "bad-key", "too short")
write("rsa-e3.der", openssl_request(rsa_e3), "bad-key", "exponent 3")
write("rsa-e1.der", request(rsa_spki(n, 1), algorithm=RSA_SHA256), "bad-key", "exponent 1")
write("rsa-e-even.der", request(rsa_spki(n, 65538), algorithm=RSA_SHA256), "bad-key", "even exponent")
write("rsa-e-large.der", request(rsa_spki(n, (1 << 256) + 1), algorithm=RSA_SHA256), "bad-key", "exponent above 2^256")
write("rsa-even.der", request(rsa_spki(n + 1, 65537), algorithm=RSA_SHA256), "bad-key", "even modulus")
write("rsa-8200.der", request(rsa_spki((1 << 8199) + 1, 65537), algorithm=RSA_SHA256), "bad-key", "too long")
write("rsa-small-factor.der", request(rsa_spki(4093 * random_prime(2037), 65537), algorithm=RSA_SHA256), "bad-key", "divisible by 4093")
write("rsa-parameters-absent.der", request(rsa_spki(n, 65537, b""), algorithm=RSA_SHA256), "bad-key", "parameters must be NULL")
write("rsa-negative.der", request(sequence(sequence(RSA, NULL), bits(sequence(tlv(0x02, b"\x80" + secrets.token_bytes(255)), integer(65537)))),
      algorithm=RSA_SHA256), "bad-key", "negative modulus")
write("rsa-padded.der", request(sequence(sequence(RSA, NULL), bits(sequence(tlv(0x02, b"\0\0" + n.to_bytes(256, "big")), integer(65537)))),
      algorithm=RSA_SHA256), "bad-key", "modulus not in its shortest form")
roca = rsa_key("roca", roca_prime(1024), roca_prime(1024))
write("rsa-roca.der", openssl_request(roca), "bad-key", "CVE-2017-15361, made as its generator did")
p = random_prime(1024)
write("rsa-fermat-next-prime.der", openssl_request(rsa_key("fermat-1", prime_from(p + 2), p)), "bad-key", "neighbouring primes")
distance = math.isqrt(8 * 90 * p) & ~1
fermat_90 = rsa_key("fermat-90", prime_from(p + distance), p)
write("rsa-fermat-90.der", openssl_request(fermat_90), "bad-key", "found in about 90 rounds of Fermat's method")
write("rsa-square.der", request(rsa_spki(p * p, 65537), algorithm=RSA_SHA256), "bad-key", "the square of a prime")

# Elliptic curve keys

point = public(p256)[-65:]
def ec_spki(point, curve=P256): return sequence(sequence(EC, curve), bits(point))


compressed = openssl("pkey", "-in", p256, "-pubout", "-outform", "DER", "-ec_conv_form", "compressed")
explicit = openssl("pkey", "-in", p256, "-pubout", "-outform", "DER", "-ec_param_enc", "explicit")
write("ec-compressed.der", request(compressed, p256), "bad-key", "compressed point")
write("ec-explicit.der", request(explicit, p256), "bad-key", "explicit parameters")
write("ec-off-curve.der", request(ec_spki(point[:-1] + bytes([point[-1] ^ 1])), p256), "bad-key", "point not on the curve")
write("ec-infinity.der", request(ec_spki(b"\0"), p256), "bad-key", "point at infinity")
write("ec-zero.der", request(ec_spki(b"\4" + b"\0" * 64), p256), "bad-key", "(0, 0) is not on the curve")
write("ec-hybrid.der", request(ec_spki(bytes([6 + (point[-1] & 1)]) + point[1:]), p256), "bad-key", "hybrid point")
write("ec-short.der", request(ec_spki(point[:-1]), p256), "bad-key", "an octet is missing")
write("ec-no-curve.der", request(ec_spki(point, b""), p256), "bad-key", "no curve")
write("ec-other-curve.der", request(ec_spki(point, oid("1.3.132.0.34")), p256), "bad-key", "a P-256 point said to be on P-384")
write("ec-secp256k1.der", openssl_request(k256), "bad-key", "curve not accepted")
write("ec-unused-bits.der", request(sequence(sequence(EC, P256), tlv(0x03, b"\4", point[:-1], b"\xf0")), p256), "bad-key",
      "not a whole number of octets")

# Edwards curve keys

ED25519 = sequence(oid("1.3.101.112"))
identity = b"\1" + b"\0" * 31
write("ed25519-identity.der", sequence(sequence(integer(0), SUBJECT, sequence(ED25519, bits(identity)), attributes()), ED25519,
      bits(identity + b"\0" * 32)), "bad-key", "the neutral point: this signature verifies for every message")
write("ed25519-short.der", request(sequence(ED25519, bits(b"\x55" * 31)), algorithm=ED25519), "bad-key", "31 octets")
write("ed25519-parameters.der", request(sequence(sequence(oid("1.3.101.112"), NULL), bits(public(ed25519)[-32:])), algorithm=ED25519),
      "bad-key", "parameters must be absent")
write("x25519.der", request(public(x25519), algorithm=ED25519), "bad-key", "cannot sign")

with open(os.path.join(here, "expectations.txt"), "w", encoding="utf-8") as file:
    file.write("# PKCS#10 requests: file, outcome (accepted, or the reason of the refusal), and why.\n")
    file.write("# Written by make.py with " + openssl("version").decode().split(" (")[0] + "; the octets are its work, no client's.\n")
    file.writelines(line + "\n" for line in expectations)
