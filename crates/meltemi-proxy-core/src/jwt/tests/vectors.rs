//! Tokens of `testing@secure.istio.io` that another implementation signed, with keys that nobody has any more.

pub(super) struct Vector {
    pub(super) algorithm: &'static str,
    /// The key set: one public key that names no algorithm.
    pub(super) keys: &'static str,
    pub(super) pem: &'static str,
    pub(super) token: &'static str,
}

const RSA: &str = r#"{"keys": [{"kty": "RSA", "n": "39ErQmRihIh406YwCdV097lNNFDunVfaGUVNO_Qb9OgWnsEFztidRa6f6lLMSaQfe-q9neUYwR6pC0vowWSzMQxjLaKCTAbehMKvSoTUMC4CXDim1gGzHMROFp6TKAR2MKtobUfDMbaFetlUuu3DVdL-emovJFodYyf7Vxx4hEyglfsifHA8_QBkE1ziYD43ehgwZDBczI_CbGQ21S0bgok7LzqcnW2EW19yMCono0i8ElQzSYgN3ebx_95PChBkK2TsxN81WXUMoUF52A48-AhJ7uUCBT6xDQUh4EoXr6quvIYuCZ8VAWsaSO6xaUZjMgy9YW6eQzOVnHpHGJlWpQ", "e": "AQAB"}]}"#;
const RSA_PEM: &str = "-----BEGIN PUBLIC KEY-----
MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA39ErQmRihIh406YwCdV0
97lNNFDunVfaGUVNO/Qb9OgWnsEFztidRa6f6lLMSaQfe+q9neUYwR6pC0vowWSz
MQxjLaKCTAbehMKvSoTUMC4CXDim1gGzHMROFp6TKAR2MKtobUfDMbaFetlUuu3D
VdL+emovJFodYyf7Vxx4hEyglfsifHA8/QBkE1ziYD43ehgwZDBczI/CbGQ21S0b
gok7LzqcnW2EW19yMCono0i8ElQzSYgN3ebx/95PChBkK2TsxN81WXUMoUF52A48
+AhJ7uUCBT6xDQUh4EoXr6quvIYuCZ8VAWsaSO6xaUZjMgy9YW6eQzOVnHpHGJlW
pQIDAQAB
-----END PUBLIC KEY-----
";
const P256: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "x": "6eP3doEAhRKh7KtxZa2scPzBan8MH_UsTL8nhZs6ma8", "y": "KwkFoWQo2FnaN8UzV3yNiMtpq_lHTWjmxQ98yIo0oQE"}]}"#;
const P256_PEM: &str = "-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE6eP3doEAhRKh7KtxZa2scPzBan8M
H/UsTL8nhZs6ma8rCQWhZCjYWdo3xTNXfI2Iy2mr+UdNaObFD3zIijShAQ==
-----END PUBLIC KEY-----
";
const P384: &str = r#"{"keys": [{"kty": "EC", "crv": "P-384", "x": "oTNCy6FR7Q4dtlse4q3NdV9lVXHLQSsS1QtIAMPPi6bH6XRCabbY8vKY8E4RAcoS", "y": "oXWZlt4wCWzRoZUPHkKRKfMo8GVVudjbvVlpNp1MKqga-2BOchmjvPYrwA2fguQK"}]}"#;
const P384_PEM: &str = "-----BEGIN PUBLIC KEY-----
MHYwEAYHKoZIzj0CAQYFK4EEACIDYgAEoTNCy6FR7Q4dtlse4q3NdV9lVXHLQSsS
1QtIAMPPi6bH6XRCabbY8vKY8E4RAcoSoXWZlt4wCWzRoZUPHkKRKfMo8GVVudjb
vVlpNp1MKqga+2BOchmjvPYrwA2fguQK
-----END PUBLIC KEY-----
";
const ED25519: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519", "x": "4aLxm0W8ZZLVEld8Pk3kXlPGhe7UJ_4nuyM0_JvX6yo"}]}"#;
const ED25519_PEM: &str = "-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA4aLxm0W8ZZLVEld8Pk3kXlPGhe7UJ/4nuyM0/JvX6yo=
-----END PUBLIC KEY-----
";

pub(super) const ALL: &[Vector] = &[
    Vector {
        algorithm: "RS256",
        keys: RSA,
        pem: RSA_PEM,
        token: "eyJhbGciOiAiUlMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.eToBkvHiskAehKeRZG2AIui62xRTL-G0suRKhcl5EnZJRdGlslZ1f3TmuwHI4bIpIdn9s0EMrpWzmxAYVoL-CXJrgfahTf_oo5QExHw7whQmIeS7WY5YR-6ruNZDrm9RgcNaBXH-LFv2JOBi5vIzx8mgGsjTbxXmT4ri7YuAz2dLQr5x5AsgVclUTfS-pI_U7dYzihyiBzyYt6-uo4pK0VNWsQGsmTt0y1qGyfW4YYj_gzGr74E8GeDn2oNr36JQuQzu6TZc7mSn-vy1Ks9N2PX0oBEu75PEXMTMs6FToks0bA7LyPqq-quCNnEf1hqMdASB-NfzWXJEhalEfX4Ctg",
    },
    Vector {
        algorithm: "RS384",
        keys: RSA,
        pem: RSA_PEM,
        token: "eyJhbGciOiAiUlMzODQiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.H-hTc-yuVfmQcevCBQS2_vM52-BMcTPbipqCntUDm3L_t2IMqNXSuFyd5Q8XFNw29hP3zk7WnajxeYYALqeSYzmyrd9stUPYWWfGN3DHyfoLAD__3OssexXIP5KDdQWYB5l0jwx3oafVNTUvmWzm8vt5oxPLaTXt9gu2bBcdx08iNzaAc7ai1MJJ-f6Pl3pkkp09ilCBG6Lmj4u6d6jDVIcuzOB0_WFHsRgIbRNId4bb0kW1vvk6nhKuP6YOH3fO90b2ntYmV15CIIlJi6JSzOmOZZCu15IlVX1P5eR72vvZq8wD1rSPyPx_qftH8K5xFlrclP0Y9PZyQwvphQ_oig",
    },
    Vector {
        algorithm: "RS512",
        keys: RSA,
        pem: RSA_PEM,
        token: "eyJhbGciOiAiUlM1MTIiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.HyjY5aZnlVdeGqAOR02mCGjCdHz4z4o1zhE7xBdzjGraSzgXI_GAdyV6L2sGTZLQdmWqPyts6oAaPkn5NwhzoTEdWlQoOzsuozEr1XyRLF12HU2JAhUQvee4OtNK4sk98LSQsr-IGaEYwDrI8VvFjoOjj6diL_p-h5Mbqu1AwT3oIVnll9whKauZSJsxVmZIedE0-bg4g7MM7mq3k1lOA5XE5h34u1tdvOjzQSTWQepxoizeP9w7Jo0cPkGHFGEsYg8D381JSKOyE2HtslCddmgnsN-o-GRC67lVi9NoRTqyZcJ7w9jGrL-itf6aA9pL5lVh7dBc_Gv5dpPx6-j8Xg",
    },
    Vector {
        algorithm: "PS256",
        keys: RSA,
        pem: RSA_PEM,
        token: "eyJhbGciOiAiUFMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.w1PfQIyz93nxnNmo94I0KqHjjCzmg2CMVCqTi_vDFuhQhkLhOVR_xSHqm7RAUJWhgY48IDLvp_yfq5LkE8PK9U5F34wPX2GxPslRtPRo4827SNpyvaCF0jhuxCZMHXgD37c7bLF37ELrXNK59HjVHF58vht0pl1ydadN7rlCmmOLfEBhrtO5DDVpgJytBCm50IiYWZ9TDcy5fSlt-2VZmiFFcribOrr_5fneX2NDj7SSZfcP21SqR-mIhLaO9y0ZMTlBVQleGXbt5jpGczGK-k4KoA7LtuaK5w0LVXo3nSX-PaIGw_z0VDrvUo7FmSVUsTNp-6udi0QTQi7cUvgxYw",
    },
    Vector {
        algorithm: "PS384",
        keys: RSA,
        pem: RSA_PEM,
        token: "eyJhbGciOiAiUFMzODQiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.KfI6U-Ydfvdm9PUmDmZKSF04yrCR4pBwwjG4EpuvZFX8PLOydd4jrNVfA5D6mSaw6mLF3H6swr_gawX9RAMgmKQiOChyGgICUCzsJrzcDn4eaNcefeaY8BiOK0ehA3zG2RilrpehEFBR5shhq_O5B951MuJGBeyJ3lTVKlHds9ysk8HWzf8B0ldcvMz2RW-QPaafEczoec_z6EgH5QDlNFVUcOwFYozxB9561F60P7PySPYeG_3ACQcNufFD5gygWogcF-JjjRhuYxnB2ncf3l3R4UcizeHdKEU_oBsUP70oF0bH0F2jBIgaMPjQpK-SrWdSHuf3mQq-sADzgoh-aA",
    },
    Vector {
        algorithm: "PS512",
        keys: RSA,
        pem: RSA_PEM,
        token: "eyJhbGciOiAiUFM1MTIiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.os78qc1TLOdCgc2HvRMSlO1mHjzNFhp0QavrXhO2zO6i6Qjb5zxlRieMtpWV4duswsuOQbCP3mfV4cKlq1wIhf7kOhhxY7HzPhUUWiR0rByW6l2RVfIHqNP5VoErO1in7ixcPfveAKRY87IeC58kzRW_e8JE8I8uWPeAh5EuStV8wRYIstjZq1HDXj-G9TXvwGMhYZqu6JH1reF0bA-9PXo72RNX5y2qEeh2jf1EUNh8vjYgShQ_XlnA7G7rxwVtgex1TfE0RO7UlsEUT2cPYG6RVx15Kx3FPbFbQZ-F0FOusaPbYBKgZiGVgS7-2VZRvxIGaL-ddZeibAEpJLAhWA",
    },
    Vector {
        algorithm: "ES256",
        keys: P256,
        pem: P256_PEM,
        token: "eyJhbGciOiAiRVMyNTYiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.Rdh9JGSVqlSTpM2XrrWohfRS8wQXl2JVRYnp7sx-P3Mrbww4AhZ5zArEIV2rDsh0O02dp-3NTTESCEw5hEHojw",
    },
    Vector {
        algorithm: "ES384",
        keys: P384,
        pem: P384_PEM,
        token: "eyJhbGciOiAiRVMzODQiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.QK2ixnRiTleuHrqIz_TjdNwfyYKyohNyNTdfsvzXKTL_lRUxQDLdcVT4ipSe13msjlRM7ZcYb9GOjauMVO8I6G9eTSVqc3vbrd71fBuwUWQMhlVcKC2aBYvv6pZ8dso2",
    },
    Vector {
        algorithm: "EdDSA",
        keys: ED25519,
        pem: ED25519_PEM,
        token: "eyJhbGciOiAiRWREU0EiLCAidHlwIjogIkpXVCJ9.eyJpc3MiOiAidGVzdGluZ0BzZWN1cmUuaXN0aW8uaW8iLCAic3ViIjogInRlc3RpbmdAc2VjdXJlLmlzdGlvLmlvIiwgImV4cCI6IDQ2ODU5ODk3MDB9.wdQ9UuDDWLzcAy2U6h8XQdrKnKqvtVZLAddNktrFyuRF5L5oKBs4hYlcS7iLQHdToaRSwg-_w0xWm0qirw9aDQ",
    },
];
