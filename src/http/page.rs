//! The landing page.

/// A short page for whoever opens the bridge's address in a browser.
pub(super) fn landing(targets: usize, missing: Option<&str>) -> String {
    let state = missing.unwrap_or("ready");
    let plural = if targets == 1 { "" } else { "s" };
    format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>dht-prometheus</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 40rem; margin: 3rem auto; padding: 0 1rem }}
dt {{ font-weight: 600 }}
</style>
</head>
<body>
<h1>dht-prometheus</h1>
<p>Version {version}, {state}, {targets} target{plural}.</p>
<dl>
<dt><a href="/targets">/targets</a></dt><dd>the targets, for Prometheus' HTTP service discovery</dd>
<dt>/scrape/ALIAS/metrics</dt><dd>the metrics of a target</dd>
<dt><a href="/metrics">/metrics</a></dt><dd>the metrics of this bridge</dd>
<dt><a href="/-/healthy">/-/healthy</a></dt><dd>whether it runs</dd>
<dt><a href="/-/ready">/-/ready</a></dt><dd>whether services can reach it</dd>
</dl>
</body>
</html>
"#,
        version = env!("CARGO_PKG_VERSION"),
    )
}
