//! One stream of one QUIC connection from file to file, by quinn, with the controller that is asked for.
//!
//! ```text
//! quinn-peer recv cubic|bbr WINDOW ADDRESS:PORT CERTIFICATE FILE    writes the certificate, says where it listens, writes FILE
//! quinn-peer send cubic|bbr WINDOW ADDRESS:PORT CERTIFICATE FILE    trusts that certificate and no other, sends FILE
//! ```
//!
//! Windows are in bytes. AES-128-GCM, as fulmar and `scp` have it here, and packets that fill an Ethernet's. One thread
//! each. It does *not* tune anything else that a user of quinn would not: windows, which must hold what is on its way,
//! and socket buffers.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::rustls::crypto::{CryptoProvider, aws_lc_rs};
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::rustls::version::TLS13;
use quinn::rustls::{self, CipherSuite, RootCertStore};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket2::SockRef;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [verb, controller, window, address, certificate, file] = &words[..] else {
        bail!("usage: quinn-peer recv|send cubic|bbr WINDOW ADDRESS:PORT CERTIFICATE FILE");
    };
    let transport = transport(controller, window.parse()?)?;
    let address: SocketAddr = address.parse()?;
    let (certificate, file) = (PathBuf::from(certificate), PathBuf::from(file));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    match verb.as_str() {
        "recv" => runtime.block_on(receive(transport, address, &certificate, &file)),
        "send" => runtime.block_on(send(transport, address, &certificate, &file)),
        _ => bail!("{verb} is neither recv nor send"),
    }
}

fn transport(controller: &str, window: u32) -> anyhow::Result<Arc<TransportConfig>> {
    let factory: Arc<dyn ControllerFactory + Send + Sync> = match controller {
        "cubic" => Arc::new(CubicConfig::default()),
        "bbr" => Arc::new(BbrConfig::default()),
        _ => bail!("{controller} is neither cubic nor bbr"),
    };
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(factory)
        .stream_receive_window(VarInt::from_u32(window))
        .receive_window(VarInt::from_u32(window))
        .send_window(window.into())
        .initial_mtu(PACKET)
        .min_mtu(PACKET);
    Ok(Arc::new(transport))
}

/// The one cipher suite that all encrypted contenders use.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider
        .cipher_suites
        .retain(|known| known.suite() == CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

async fn receive(
    transport: Arc<TransportConfig>,
    at: SocketAddr,
    certificate: &Path,
    file: &Path,
) -> anyhow::Result<()> {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    fs::write(certificate, own.cert.der())?;
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let tls = rustls::ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key.into())?;
    let mut server = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    server.transport_config(transport);
    let endpoint = endpoint(at, Some(server))?;
    println!("{{\"listen\":\"{}\"}}", endpoint.local_addr()?);
    let mut file = File::create_new(file)?;
    let incoming = endpoint.accept().await.context("nobody came")?;
    let connection = incoming.await?;
    let mut stream = connection.accept_uni().await?;
    let mut buf = vec![0; STEP];
    // Whatever has come since, not a packet at a time.
    while let Some(read) = stream.read(&mut buf).await? {
        file.write_all(&buf[..read])?;
    }
    // This tells the sender that everything was written.
    connection.close(VarInt::from_u32(0), b"");
    endpoint.wait_idle().await;
    Ok(())
}

async fn send(
    transport: Arc<TransportConfig>,
    to: SocketAddr,
    certificate: &Path,
    file: &Path,
) -> anyhow::Result<()> {
    let mut trusted = RootCertStore::empty();
    trusted.add(CertificateDer::from(fs::read(certificate)?))?;
    let tls = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(trusted)
        .with_no_client_auth();
    let mut client = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    client.transport_config(transport);
    let endpoint = endpoint((Ipv4Addr::UNSPECIFIED, 0).into(), None)?;
    let connection = endpoint.connect_with(client, to, NAME)?.await?;
    let mut stream = connection.open_uni().await?;
    let mut file = File::open(file)?;
    let mut buf = vec![0; STEP];
    loop {
        match file.read(&mut buf)? {
            0 => break,
            read => stream.write_all(&buf[..read]).await?,
        }
    }
    stream.finish()?;
    let end = connection.closed().await;
    if matches!(end, quinn::ConnectionError::ApplicationClosed(_)) {
        return Ok(());
    }
    Err(end.into())
}

fn endpoint(at: SocketAddr, server: Option<ServerConfig>) -> anyhow::Result<Endpoint> {
    let socket = UdpSocket::bind(at)?;
    let options = SockRef::from(&socket);
    options.set_recv_buffer_size(BUFFER)?;
    options.set_send_buffer_size(BUFFER)?;
    let runtime = Arc::new(TokioRuntime);
    Ok(Endpoint::new(
        EndpointConfig::default(),
        server,
        socket,
        runtime,
    )?)
}

const NAME: &str = "bench.invalid";
const STEP: usize = 256 << 10;
/// The largest that quinn looks for by itself, in bytes: what an Ethernet carries, less IPv6, UDP.
const PACKET: u16 = 1452;
/// What fulmar's own sockets ask for.
const BUFFER: usize = 4 << 20;
