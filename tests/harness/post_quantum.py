"""Judges what an authority with an ML-DSA key signs, with the OpenSSL that the Python package `cryptography` brings.

post_quantum.py request KEYNAME FILE        writes a PKCS#10 request with a new key (ML-DSA-44, ...), DER
post_quantum.py chain DIRECTORY             judges root.der issuing.der leaf.der
post_quantum.py judge DIRECTORY             judges root.der issuing.der leaf.der crl.der ocsp.der; prints what it saw as JSON
"""

import json
import pathlib
import sys

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.x509 import ocsp

KEYS = {
    "ml-dsa-44": mldsa.MLDSA44PrivateKey,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey,
}


def request(kind: str, file: str) -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(KEYS[kind].generate(), None)
    pathlib.Path(file).write_bytes(signed.public_bytes(serialization.Encoding.DER))


def chain(directory: str) -> tuple[x509.Certificate, ...]:
    at = pathlib.Path(directory)
    root, issuing, leaf = (
        x509.load_der_x509_certificate((at / f"{name}.der").read_bytes()) for name in ("root", "issuing", "leaf")
    )
    root.verify_directly_issued_by(root)
    issuing.verify_directly_issued_by(root)
    leaf.verify_directly_issued_by(issuing)
    return root, issuing, leaf


def judge(directory: str) -> None:
    at = pathlib.Path(directory)
    root, issuing, leaf = chain(directory)

    crl = x509.load_der_x509_crl((at / "crl.der").read_bytes())
    assert crl.is_signature_valid(issuing.public_key()), "the signature of the CRL does not verify"

    answer = ocsp.load_der_ocsp_response((at / "ocsp.der").read_bytes())
    responder = answer.certificates[0]
    responder.verify_directly_issued_by(issuing)
    responder.public_key().verify(answer.signature, answer.tbs_response_bytes)

    print(
        json.dumps(
            {
                "keys": [type(certificate.public_key()).__name__ for certificate in (root, issuing, leaf, responder)],
                "signature": leaf.signature_algorithm_oid.dotted_string,
                "leaf_usage": leaf.extensions.get_extension_for_class(x509.KeyUsage).value.key_encipherment,
                "on_crl": crl.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None,
                "ocsp": answer.certificate_status.name,
            }
        )
    )


{"request": request, "chain": chain, "judge": judge}[sys.argv[1]](*sys.argv[2:])
