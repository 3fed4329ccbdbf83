//! Mutual TLS: the certificate and key that a process shows, and the CA that whoever it talks to must have a certificate of.
//!
//! TLS 1.3 alone, and both sides show a certificate. The three files are looked at again for new connections, so a renewed certificate
//! is shown without a restart; files that cannot be used are said to be so once, and what was read before goes on. Sessions
//! are not resumed: connections are few and kept.

use rustls::client::{Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    AlertDescription, CertificateError, ClientConfig, Error, RootCertStore, ServerConfig,
};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout};
use tracing::{info, warn};

/// Certificates take a few KiB each.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// The files are not looked at more often.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// A connection waits no longer for a disk, and is made with what was read before.
const LOOK_TIME_MAX: Duration = Duration::from_millis(100);

/// PEM files: this process's certificate with those between it and the CA, its key, and the CA's certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
    pub ca: PathBuf,
}

impl TlsFiles {
    /// All three or none.
    pub fn of(
        cert: Option<PathBuf>,
        key: Option<PathBuf>,
        ca: Option<PathBuf>,
    ) -> Result<Option<Self>, String> {
        match (cert, key, ca) {
            (None, None, None) => Ok(None),
            (Some(cert), Some(key), Some(ca)) => Ok(Some(TlsFiles { cert, key, ca })),
            (cert, key, ca) => {
                let flags = [("--tls-cert", cert), ("--tls-key", key), ("--tls-ca", ca)];
                let missing = flags.into_iter().filter(|(_, file)| file.is_none());
                let missing: Vec<&str> = missing.map(|(flag, _)| flag).collect();
                Err(format!(
                    "TLS takes --tls-cert, --tls-key and --tls-ca together: {} is missing",
                    missing.join(" and ")
                ))
            }
        }
    }

    fn all(&self) -> [&Path; 3] {
        [&self.cert, &self.key, &self.ca]
    }
}

/// Cheap to clone.
#[derive(Clone)]
pub(crate) struct Tls {
    shared: Arc<Shared>,
}

struct Shared {
    files: TlsFiles,
    current: Mutex<Current>,
}

struct Current {
    configs: Configs,
    stamps: Stamps,
    /// `None` while somebody looks.
    look_at: Option<Instant>,
}

#[derive(Clone)]
pub(crate) struct Configs {
    pub(crate) client: Arc<ClientConfig>,
    pub(crate) server: Arc<ServerConfig>,
}

/// What tells a file from the one that stood there before: when it was written, how long it is, and which it is.
type Stamps = [Option<(i64, i64, u64, u64)>; 3];

impl Tls {
    /// The error is one line that names the file.
    pub(crate) fn load(files: TlsFiles) -> Result<Self, String> {
        let stamps = stamps(&files);
        let current = Current {
            configs: Material::read(&files)?.configs()?,
            stamps,
            look_at: Some(Instant::now() + LOOK_PAUSE),
        };
        let shared = Shared {
            files,
            current: Mutex::new(current),
        };
        Ok(Tls {
            shared: Arc::new(shared),
        })
    }

    /// Whether others that dial this address will take the certificate for its; else one line says why not.
    pub(crate) fn check_serves(&self, address: &str) -> Result<(), String> {
        Material::read(&self.shared.files)?.check_serves(address)
    }

    /// For a new connection.
    pub(crate) async fn configs(&self) -> Configs {
        if self.is_look_due() {
            let tls = self.clone();
            let looking = spawn_blocking(move || tls.look());
            // A disk that hangs is asked once; until it answers, what was read before is good enough.
            let _ = timeout(LOOK_TIME_MAX, looking).await;
        }
        self.current().configs.clone()
    }

    fn is_look_due(&self) -> bool {
        let look_at = &mut self.current().look_at;
        let due = look_at.is_some_and(|at| at <= Instant::now());
        if due {
            *look_at = None;
        }
        due
    }

    fn look(&self) {
        let files = &self.shared.files;
        // Taken before the files are read: what changes meanwhile is seen the next time.
        let stamps = stamps(files);
        let read = match stamps == self.current().stamps {
            true => None,
            false => Some(Material::read(files).and_then(Material::configs)),
        };
        let mut current = self.current();
        match read {
            Some(Ok(configs)) => {
                info!(cert = %files.cert.display(), "read the TLS files again");
                current.configs = configs;
            }
            Some(Err(error)) => warn!(error, "the TLS files have changed and cannot be used"),
            None => {}
        }
        current.stamps = stamps;
        current.look_at = Some(Instant::now() + LOOK_PAUSE);
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        let current = self.shared.current.lock();
        current.unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tls").field(&self.shared.files).finish()
    }
}

fn stamps(files: &TlsFiles) -> Stamps {
    files.all().map(|path| {
        let file = fs::metadata(path).ok()?;
        Some((file.mtime(), file.mtime_nsec(), file.size(), file.ino()))
    })
}

/// What the files hold, once they were found to fit each other.
struct Material {
    files: TlsFiles,
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    roots: Arc<RootCertStore>,
    provider: Arc<CryptoProvider>,
}

impl Material {
    fn read(files: &TlsFiles) -> Result<Self, String> {
        let chain = certificates(&files.cert)?;
        let shown = files.key.display();
        let key = PrivateKeyDer::from_pem_slice(&read_key(&files.key)?)
            .map_err(|_| format!("the TLS key file {shown} holds no private key in PEM"))?;
        let mut roots = RootCertStore::empty();
        for root in certificates(&files.ca)? {
            roots.add(root).map_err(|error| {
                let shown = files.ca.display();
                format!("the TLS CA file {shown} has a certificate that is none: {error}")
            })?;
        }
        Ok(Material {
            files: files.clone(),
            chain,
            key,
            roots: Arc::new(roots),
            provider: Arc::new(default_provider()),
        })
    }

    /// Says so if others of the cluster would refuse the certificate.
    fn configs(self) -> Result<Configs, String> {
        let unusable = |error: Error| self.unusable(&error);
        let provider = || self.provider.clone();
        let verifier =
            WebPkiClientVerifier::builder_with_provider(self.roots.clone(), provider()).build();
        let verifier = verifier.map_err(|error| error.to_string())?;
        let mut server = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_client_cert_verifier(verifier.clone())
            .with_single_cert(self.chain.clone(), self.key.clone_key())
            .map_err(unusable)?;
        server.send_tls13_tickets = 0;
        server.session_storage = Arc::new(NoServerSessionStorage {});
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(unusable)?
            .with_root_certificates(self.roots.clone())
            .with_client_auth_cert(self.chain.clone(), self.key.clone_key())
            .map_err(unusable)?;
        client.resumption = Resumption::disabled();
        verifier
            .verify_client_cert(&self.chain[0], &self.chain[1..], UnixTime::now())
            .map_err(unusable)?;
        Ok(Configs {
            client: Arc::new(client),
            server: Arc::new(server),
        })
    }

    fn check_serves(&self, address: &str) -> Result<(), String> {
        let unusable = |error: Error| self.unusable(&error);
        let certificate = ParsedCertificate::try_from(&self.chain[0]).map_err(unusable)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            &self.chain[1..],
            UnixTime::now(),
            self.provider.signature_verification_algorithms.all,
        )
        .map_err(unusable)?;
        let name = server_name(address).map_err(|error| error.to_string())?;
        let shown = self.files.cert.display();
        verify_server_name(&certificate, &name).map_err(|_| {
            format!("the TLS certificate file {shown} is not for {address}, where others connect to (its subjectAltName)")
        })
    }

    /// One line about what is wrong with this process's own files.
    fn unusable(&self, error: &Error) -> String {
        let [cert, key, ca] = self.files.all().map(Path::display);
        match error {
            Error::InconsistentKeys(_) => {
                format!("the TLS key file {key} does not belong to the certificate in {cert}")
            }
            Error::InvalidCertificate(
                CertificateError::Expired | CertificateError::ExpiredContext { .. },
            ) => format!("the TLS certificate file {cert} has expired"),
            // Another CA of the same name may have signed it.
            Error::InvalidCertificate(
                CertificateError::UnknownIssuer | CertificateError::BadSignature,
            ) => {
                format!("the TLS certificate file {cert} is not signed by the CA in {ca}")
            }
            error => format!("the TLS certificate file {cert} with the key {key}: {error}"),
        }
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, String> {
    let shown = path.display();
    let certificates = CertificateDer::pem_slice_iter(&read(path)?).collect::<Result<Vec<_>, _>>();
    match certificates {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(format!("the TLS file {shown} holds no certificate in PEM")),
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    read_if(path, |_| Ok(()))
}

fn read_key(path: &Path) -> Result<Vec<u8>, String> {
    let shown = path.display();
    read_if(path, |mode| match mode & 0o077 {
        0 => Ok(()),
        _ => Err(format!(
            "others than its owner may use the TLS key file {shown} (mode {:o}): chmod 600 {shown}",
            mode & 0o777
        )),
    })
}

fn read_if(path: &Path, check: impl Fn(u32) -> Result<(), String>) -> Result<Vec<u8>, String> {
    let failed = |error: io::Error| format!("cannot read the TLS file {}: {error}", path.display());
    let file = File::open(path).map_err(failed)?;
    check(file.metadata().map_err(failed)?.permissions().mode())?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    Ok(bytes)
}

/// The name that the certificate of whoever answers at `host:port` must have.
pub(crate) fn server_name(address: &str) -> io::Result<ServerName<'static>> {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let inner = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    let host = inner.unwrap_or(host).to_owned();
    ServerName::try_from(host).map_err(io::Error::other)
}

/// Why a TLS connection came to nothing, seen from this side, as far as it was for a reason of TLS.
pub(crate) fn reason(error: &io::Error) -> Option<String> {
    let error = error.get_ref()?.downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidMessage(_) => "it does not speak TLS".to_owned(),
        Error::PeerIncompatible(_) => "it does not speak TLS 1.3".to_owned(),
        Error::NoCertificatesPresented => "it shows no certificate".to_owned(),
        Error::InvalidCertificate(why) => match why {
            CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                "its certificate is not of this cluster's CA".to_owned()
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                "its certificate has expired".to_owned()
            }
            why => format!("its certificate is refused: {why}").replace('\n', " "),
        },
        Error::AlertReceived(AlertDescription::ProtocolVersion) => {
            "it does not speak TLS 1.3".to_owned()
        }
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => {
            "it does not know the CA of this process's certificate".to_owned()
        }
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            "it finds this process's certificate expired".to_owned()
        }
        Error::AlertReceived(alert) => format!("it refused this process by TLS ({alert:?})"),
        error => format!("TLS failed: {error}").replace('\n', " "),
    })
}
