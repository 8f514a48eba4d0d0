//! One stream of one QUIC connection from file to file, by quinn, with the controller that is asked for.
//!
//! Both ends are threads of this process, each with a runtime of its own; their sockets belong to the ends of the road.
//! The server's certificate is made for the run, and the only one the client trusts. It does *not* tune anything that a
//! user of quinn would not: windows, which must hold what is on its way, and socket buffers.

use std::fs::File;
use std::future::Future;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::rustls::RootCertStore;
use quinn::rustls::pki_types::PrivatePkcs8KeyDer;
use quinn::{
    ClientConfig, Endpoint, EndpointConfig, ServerConfig, TokioRuntime, TransportConfig, VarInt,
};
use socket2::SockRef;

use super::peers::{Moved, Task};
use super::road::{FAR, NEAR};
use super::tcp::Meter;

/// What sets quinn's rate.
#[derive(Clone, Copy, Debug)]
pub(super) enum Controller {
    /// Its default.
    Cubic,
    /// Experimental, its manual says.
    Bbr,
}

/// Moves the file.
///
/// # Errors
///
/// If a socket, a file or the connection fails, or it was told to stop.
pub(super) fn carry(task: &Task<'_>, controller: Controller) -> anyhow::Result<Moved> {
    let far = task.road.far().enter(|| socket(FAR))?;
    let near = task.road.near().enter(|| socket(NEAR))?;
    let to = far.local_addr()?;
    let (server, client) = configs(controller)?;
    let target = task.target.join("source");
    Meter::default().follow(
        task,
        |meter| {
            let file = File::create_new(&target)?;
            block_on(meter, async {
                let config = EndpointConfig::default();
                let runtime = Arc::new(TokioRuntime);
                let endpoint = Endpoint::new(config, Some(server), far, runtime)?;
                receive(&endpoint, file, meter).await
            })
        },
        |meter| {
            let file = File::open(task.source)?;
            block_on(meter, async {
                let config = EndpointConfig::default();
                let endpoint = Endpoint::new(config, None, near, Arc::new(TokioRuntime))?;
                let connecting = endpoint.connect_with(client, to, NAME)?;
                send(connecting, file).await
            })
        },
    )
}

fn socket(ip: Ipv4Addr) -> anyhow::Result<UdpSocket> {
    let socket = UdpSocket::bind((ip, 0))?;
    let options = SockRef::from(&socket);
    options.set_recv_buffer_size(BUFFER)?;
    options.set_send_buffer_size(BUFFER)?;
    Ok(socket)
}

fn configs(controller: Controller) -> anyhow::Result<(ServerConfig, ClientConfig)> {
    let own = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    let certificate = own.cert.der().clone();
    let key = PrivatePkcs8KeyDer::from(own.signing_key.serialize_der());
    let mut transport = TransportConfig::default();
    let factory: Arc<dyn ControllerFactory + Send + Sync> = match controller {
        Controller::Cubic => Arc::new(CubicConfig::default()),
        Controller::Bbr => Arc::new(BbrConfig::default()),
    };
    transport
        .congestion_controller_factory(factory)
        .stream_receive_window(VarInt::from_u32(WINDOW))
        .receive_window(VarInt::from_u32(WINDOW))
        .send_window(WINDOW.into());
    let transport = Arc::new(transport);
    let mut server = ServerConfig::with_single_cert(vec![certificate.clone()], key.into())?;
    server.transport_config(Arc::clone(&transport));
    let mut trusted = RootCertStore::empty();
    trusted.add(certificate)?;
    let mut client = ClientConfig::with_root_certificates(Arc::new(trusted))?;
    client.transport_config(transport);
    Ok((server, client))
}

/// Runs one end on this thread until it is done or the time is over.
fn block_on(meter: &Meter, end: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            done = end => done,
            () = over(meter) => Ok(()),
        }
    })
}

async fn over(meter: &Meter) {
    while !meter.is_over() {
        tokio::time::sleep(TURN).await;
    }
}

async fn receive(endpoint: &Endpoint, mut file: File, meter: &Meter) -> anyhow::Result<()> {
    let incoming = endpoint.accept().await.context("nobody came")?;
    let connection = incoming.await?;
    let mut stream = connection.accept_uni().await?;
    while let Some(chunk) = stream.read_chunk(STEP, true).await? {
        file.write_all(&chunk.bytes)?;
        meter.add(chunk.bytes.len());
    }
    meter.finish();
    Ok(())
}

async fn send(connecting: quinn::Connecting, mut file: File) -> anyhow::Result<()> {
    let connection = connecting.await?;
    let mut stream = connection.open_uni().await?;
    let mut buf = vec![0; STEP];
    loop {
        match file.read(&mut buf)? {
            0 => break,
            read => stream.write_all(&buf[..read]).await?,
        }
    }
    stream.finish()?;
    // The other end goes away when it has everything; before that, whoever waits ends this.
    connection.closed().await;
    Ok(())
}

const NAME: &str = "bench.invalid";
const STEP: usize = 256 << 10;
/// What is on its way over the longest link at the highest rate, three times, in bytes.
const WINDOW: u32 = 64 << 20;
/// What our own socket asks for.
const BUFFER: usize = 4 << 20;
/// How late an end may notice that the time is over.
const TURN: Duration = Duration::from_millis(20);
