//! The binary.
fn main() {
    let handle = portolan::demo::start().unwrap();
    let ascii = std::env::args().any(|a| a == "--ascii");
    let color = if std::env::var_os("NO_COLOR").is_some() {
        portolan::tui::state::ColorMode::None
    } else {
        portolan::tui::state::ColorMode::Dark
    };
    let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let out = rt.block_on(portolan::tui::run(handle, portolan::tui::Options { ascii, color, hint: None }, shutdown));
    println!("{out:?}");
}
