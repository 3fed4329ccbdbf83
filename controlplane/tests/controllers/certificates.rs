//! A certificate authority that lives as long as its test, and ends of TLS connections that a process would not make of itself.

use crate::support::directory;
use control_api::tls::TlsFiles;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, DigitallySignedStruct, Error, ServerConfig, SignatureScheme};
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub(crate) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    directory: PathBuf,
}

impl Authority {
    pub(crate) fn new() -> Self {
        Authority::named("the cluster's CA")
    }

    pub(crate) fn named(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let directory = directory();
        let pem = params.self_signed(&key).unwrap().pem();
        fs::write(directory.join("ca.pem"), pem).unwrap();
        let issuer = Issuer::new(params, key);
        Authority { issuer, directory }
    }

    /// The files of a process whose certificate is good for this machine.
    pub(crate) fn issue(&self, who: &str) -> TlsFiles {
        self.issue_for(who, "127.0.0.1", 4_000)
    }

    /// `name`: the one name of the certificate. `until`: in which year it expires.
    pub(crate) fn issue_for(&self, who: &str, name: &str, until: i32) -> TlsFiles {
        let files = TlsFiles {
            cert: self.directory.join(format!("{who}.pem")),
            key: self.directory.join(format!("{who}.key")),
            ca: self.directory.join("ca.pem"),
        };
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        params.not_after = date_time_ymd(until, 1, 1);
        let pem = params.signed_by(&key, &self.issuer).unwrap().pem();
        fs::write(&files.cert, pem).unwrap();
        write_key(&files.key, &key.serialize_pem());
        files
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(crate) fn write_key(path: &Path, pem: &str) {
    fs::write(path, pem).unwrap();
    fs::set_permissions(path, Permissions::from_mode(0o600)).unwrap();
}

pub(crate) fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

fn key(path: &Path) -> PrivateKeyDer<'static> {
    PrivateKeyDer::from_pem_file(path).unwrap()
}

/// Connects as somebody who takes any server's certificate, and shows the one in the files, or none.
pub(crate) async fn connect_as(files: Option<&TlsFiles>, address: &str) -> TlsStream<TcpStream> {
    let provider = Arc::new(default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody));
    let config = match files {
        None => config.with_no_client_auth(),
        Some(files) => {
            let chain = vec![certificate(&files.cert)];
            config
                .with_client_auth_cert(chain, key(&files.key))
                .unwrap()
        }
    };
    let tcp = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let connecting = TlsConnector::from(Arc::new(config)).connect(name, tcp);
    connecting.await.unwrap()
}

/// Serves TLS with the certificate in the files to whoever comes, and says nothing. Answers with where it listens.
pub(crate) async fn serve_as(files: &TlsFiles) -> String {
    let provider = Arc::new(default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate(&files.cert)], key(&files.key))
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        let mut kept = Vec::new();
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            kept.push(acceptor.accept(tcp).await.ok());
        }
    });
    address
}

#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        default_provider()
            .signature_verification_algorithms
            .supported_schemes()
    }
}
