//! CRL, OCSP and CA certificates over plain HTTP
