//! stub
pub mod text {
    pub fn render(r: &crate::results::Run, _c: bool) -> String {
        let mut r = r.clone();
        r.latency.curve.clear();
        r.latency_uncorrected.curve.clear();
        r.connects.handshake.curve.clear();
        r.generator.send_late.curve.clear();
        r.generator.read_late.curve.clear();
        r.timeline.clear();
        if let Some(s) = &mut r.storm {
            s.handshake.curve.clear();
        }
        serde_json::to_string_pretty(&r).unwrap()
    }
    pub fn render_comparison(_: &[crate::results::Run]) -> String {
        String::new()
    }
}
pub mod hgrm {
    pub fn write(_: &crate::results::Distribution, _: &mut impl std::io::Write) -> std::io::Result<()> {
        Ok(())
    }
}
pub mod html {
    pub fn page(_: &[crate::results::Run]) -> String {
        String::new()
    }
}
pub mod chart {
    pub fn svg(_: &[&crate::results::Run]) -> String {
        String::new()
    }
}
pub fn load(_: &std::path::Path) -> Result<crate::results::Run, String> {
    Err(String::new())
}
