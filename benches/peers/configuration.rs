//! What contestants with a file are told in it: the same mappings in the words of each.

use std::fmt::Write as _;
use std::path::Path;

use crate::contestants::Plan;
use crate::mode::{ALIAS, Mode};

/// nginx's module for other protocols than HTTP, which Debian packages by itself.
pub(crate) const NGINX_STREAM: &str = "/usr/lib/nginx/modules/ngx_stream_module.so";

impl Plan {
    /// Ports to listen on, each with its port of the target.
    pub(crate) fn pairs(self) -> impl Iterator<Item = (u16, u16)> {
        (0..self.listen.count).map(move |nth| (self.listen.first + nth, self.target + nth))
    }
}

/// portolan's profile. Many mappings stand each by itself, as somebody would have written them, and are not one of a
/// range of ports.
pub(crate) fn profile(plan: Plan, mode: Mode) -> String {
    let mut mappings = Vec::new();
    for (listen, target) in plan.pairs() {
        let mut add = |protocol: &str| {
            mappings.push(format!(
                r#"{{ "name": "{protocol}-{listen}", "listen": "[::1]:{listen}", "target": "127.0.0.1:{target}", "protocol": "{protocol}"{} }}"#,
                mode.profile_field()
            ));
        };
        add("tcp");
        if plan.has_udp {
            add("udp");
        }
    }
    format!(r#"{{ "version": 1, "mappings": [{}] }}"#, mappings.join(","))
}

/// nginx's configuration.
pub(crate) fn nginx(plan: Plan, folder: &Path) -> String {
    match plan.mode {
        Mode::Http | Mode::Inspect => nginx_http(plan, folder),
        Mode::Plain | Mode::ProxyV1 | Mode::ProxyV2 | Mode::Alias => nginx_stream(plan, folder),
    }
}

fn nginx_main(folder: &Path) -> String {
    format!(
        "user root;\ndaemon off;\nworker_processes auto;\npid {}/nginx.pid;\nerror_log stderr;\n\
         events {{ worker_connections 8192; }}\n",
        folder.display()
    )
}

fn nginx_stream(plan: Plan, folder: &Path) -> String {
    let mut text = format!("load_module {NGINX_STREAM};\n{}stream {{\n", nginx_main(folder));
    match plan.mode {
        Mode::ProxyV1 | Mode::ProxyV2 => text += "proxy_protocol on;\n",
        Mode::Alias => text = text + "proxy_bind " + ALIAS + ";\n",
        Mode::Plain | Mode::Http | Mode::Inspect => {}
    }
    for (listen, target) in plan.pairs() {
        let _ = writeln!(text, "server {{ listen [::1]:{listen}; proxy_pass 127.0.0.1:{target}; }}");
        if plan.has_udp {
            // With several workers, nginx's manual asks for reuseport, else packets of one flow go to any of them. Flows
            // that are over are kept for ten minutes unless told otherwise: those of some rounds would fill its table.
            let _ = writeln!(
                text,
                "server {{ listen [::1]:{listen} udp reuseport; proxy_pass 127.0.0.1:{target}; proxy_timeout 3s; }}"
            );
        }
    }
    text + "}\n"
}

/// What portolan tells of a client, in place of whatever the client says of itself.
const NGINX_FIELDS: &str = r#"map $remote_addr $node {
 ~^[0-9.]+$ "\"$remote_addr:$remote_port\"";
 default "\"[$remote_addr]:$remote_port\"";
}
proxy_set_header Forwarded "for=$node;host=\"$http_host\";proto=$scheme";
proxy_set_header X-Forwarded-For $remote_addr;
proxy_set_header X-Forwarded-Proto $scheme;
proxy_set_header X-Forwarded-Host $http_host;
"#;

/// The same, as `HAProxy` says it. The bench's clients speak IPv6.
const HAPROXY_FIELDS: &str = r#" http-request set-header X-Forwarded-For %[src]
 http-request set-header Forwarded for=\"[%[src]]:%[src_port]\";host=\"%[req.hdr(host)]\";proto=http
 http-request set-header X-Forwarded-Proto http
 http-request set-header X-Forwarded-Host %[req.hdr(host)]
"#;

/// Connections are kept on both sides for as many requests as come: nginx would end each after a thousand. What is too
/// fast for a client waits in memory: a file in between would be other work.
fn nginx_http(plan: Plan, folder: &Path) -> String {
    let mut text = nginx_main(folder);
    text += "http {\n";
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(text, "{kind}_temp_path {}/nginx-{kind};", folder.display());
    }
    if plan.mode == Mode::Inspect {
        let _ = writeln!(text, "access_log {}/nginx-access.log;", folder.display());
    } else {
        text = text + "access_log off;\n" + NGINX_FIELDS;
    }
    text += "proxy_http_version 1.1;\nproxy_set_header Connection \"\";\nproxy_set_header Host $http_host;\n\
             proxy_max_temp_file_size 0;\nkeepalive_requests 1000000000;\n";
    for (listen, target) in plan.pairs() {
        let _ = writeln!(
            text,
            "upstream target{listen} {{ server 127.0.0.1:{target}; keepalive 64; keepalive_requests 1000000000; }}\n\
             server {{ listen [::1]:{listen}; location / {{ proxy_pass http://target{listen}; }} }}"
        );
    }
    text + "}\n"
}

/// `HAProxy`'s configuration.
pub(crate) fn haproxy(plan: Plan) -> String {
    let (mode, fields, server) = match plan.mode {
        Mode::Plain => ("mode tcp", "", String::new()),
        Mode::ProxyV1 => ("mode tcp", "", " send-proxy".to_owned()),
        Mode::ProxyV2 => ("mode tcp", "", " send-proxy-v2".to_owned()),
        Mode::Alias => ("mode tcp", "", format!(" source {ALIAS}")),
        Mode::Http => ("mode http\n http-reuse always", HAPROXY_FIELDS, String::new()),
        Mode::Inspect => ("mode http", "", String::new()),
    };
    let mut text = format!(
        "global\n maxconn 8192\ndefaults\n {mode}\n timeout connect 5s\n timeout client 1h\n timeout server 1h\n"
    );
    for (nth, (listen, target)) in plan.pairs().enumerate() {
        let _ =
            write!(text, "listen l{nth}\n bind ipv6@[::1]:{listen}\n{fields} server s 127.0.0.1:{target}{server}\n");
    }
    text
}
