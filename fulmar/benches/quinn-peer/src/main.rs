//! One stream of one QUIC connection from file to file, by quinn, with the controller that is asked for.
//!
//! ```text
//! quinn-peer recv cubic|bbr ADDRESS:PORT CERTIFICATE FILE     writes the certificate, says where it listens, writes FILE
//! quinn-peer send cubic|bbr ADDRESS:PORT CERTIFICATE FILE     trusts that certificate and no other, sends FILE
//! ```
//!
//! One thread each. It does *not* tune anything that a user of quinn would not: windows, which must hold what is on its
//! way, and socket buffers.
#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket2::SockRef;

fn main() -> anyhow::Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [verb, controller, address, certificate, file] = &words[..] else {
        bail!("usage: quinn-peer recv|send cubic|bbr ADDRESS:PORT CERTIFICATE FILE");
    };
    let transport = transport(controller)?;
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

fn transport(controller: &str) -> anyhow::Result<Arc<TransportConfig>> {
    let factory: Arc<dyn ControllerFactory + Send + Sync> = match controller {
        "cubic" => Arc::new(CubicConfig::default()),
        "bbr" => Arc::new(BbrConfig::default()),
        _ => bail!("{controller} is neither cubic nor bbr"),
    };
    let mut transport = TransportConfig::default();
    transport
        .congestion_controller_factory(factory)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into());
    Ok(Arc::new(transport))
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
    let mut server = ServerConfig::with_single_cert(vec![own.cert.der().clone()], key.into())?;
    server.transport_config(transport);
    let endpoint = endpoint(at, Some(server))?;
    println!("{{\"listen\":\"{}\"}}", endpoint.local_addr()?);
    let mut file = File::create_new(file)?;
    let incoming = endpoint.accept().await.context("nobody came")?;
    let connection = incoming.await?;
    let mut stream = connection.accept_uni().await?;
    while let Some(chunk) = stream.read_chunk(STEP, true).await? {
        file.write_all(&chunk.bytes)?;
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
    let mut client = ClientConfig::with_root_certificates(Arc::new(trusted))?;
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
    match connection.closed().await {
        quinn::ConnectionError::ApplicationClosed(_) => Ok(()),
        other => Err(other.into()),
    }
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
/// What is on its way over the longest link at the highest rate, three times, in bytes.
const WINDOW: u32 = 64 << 20;
/// What fulmar's own sockets ask for.
const BUFFER: usize = 4 << 20;
