//! Headless Chromium controlled through the DevTools protocol (one WebSocket, no other program).

use crate::common::chromium::Chromium;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tungstenite::{Message, WebSocket};

/// Timeout for starting the browser and for its answers.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A browser with one page. Dropping it kills all of its processes.
pub struct Browser {
    socket: WebSocket<TcpStream>,
    session: Value,
    next: u64,
    errors: Vec<String>,
    requests: Vec<String>,
    process: Chromium,
    /// Folder of the profile.
    _folder: tempfile::TempDir,
}

impl Browser {
    /// Starts a browser and opens `url` in it.
    pub fn open(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let more = ["--disable-gpu", "--remote-debugging-port=0"];
        let process = Chromium::start("about:blank", folder.path(), &more);
        let (port, path) =
            wait_for_port(&folder.path().join("profile/DevToolsActivePort"), &folder.path().join("log"));
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_read_timeout(Some(TIMEOUT)).unwrap();
        let (socket, _) = tungstenite::client(format!("ws://127.0.0.1:{port}{path}"), stream).unwrap();
        let mut browser = Self {
            socket,
            session: Value::Null,
            next: 0,
            errors: Vec::new(),
            requests: Vec::new(),
            process,
            _folder: folder,
        };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser.resize(1280, 900);
        browser.go(url);
        browser
    }

    /// Navigates to an address.
    pub fn go(&mut self, url: &str) {
        // An address that differs only in its fragment would not be reloaded.
        self.call("Page.navigate", json!({ "url": "about:blank" }));
        let answer = self.call("Page.navigate", json!({ "url": url }));
        assert!(answer.get("errorText").is_none(), "{url}: {answer}");
        self.wait_until("document.readyState === 'complete'", TIMEOUT);
    }

    /// Evaluates a JavaScript expression; promises are awaited.
    pub fn value(&mut self, expression: &str) -> Value {
        let parameters = json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// Returns the trimmed text of an element.
    pub fn text(&mut self, selector: &str) -> String {
        self.value(&format!("{}.textContent.trim()", find(selector))).as_str().unwrap().to_owned()
    }

    /// Returns an attribute of an element; empty if missing.
    pub fn attribute(&mut self, selector: &str, name: &str) -> String {
        let value = self.value(&format!("{}.getAttribute({}) ?? ''", find(selector), json!(name)));
        value.as_str().unwrap().to_owned()
    }

    /// Returns the first number in an element's text, such as "43 %" or "120 of 300".
    pub fn number(&mut self, selector: &str) -> f64 {
        let text = self.text(selector);
        let digits: String = text
            .chars()
            .skip_while(|c| !c.is_ascii_digit())
            .take_while(|c| c.is_ascii_digit() || *c == '.')
            .collect();
        digits.parse().unwrap_or_else(|_| panic!("no number in {text:?} of {selector}"))
    }

    /// Scrolls an element into view and clicks its centre with the mouse.
    pub fn click(&mut self, selector: &str) {
        let middle = self.value(&format!(
            "(() => {{ const e = {}; e.scrollIntoView({{ block: 'center', behavior: 'instant' }}); \
             const r = e.getBoundingClientRect(); const at = [r.x + r.width / 2, r.y + r.height / 2]; \
             const hit = document.elementFromPoint(...at); \
             if (!hit || !(e.contains(hit) || hit.contains(e))) throw new Error('covered'); return at; }})()",
            find(selector)
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1
            });
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Sets a range input like a mouse would, with an `input` and then a `change` event.
    pub fn set_range(&mut self, selector: &str, value: f64) {
        self.value(&format!(
            "(() => {{ const e = {}; if (e.disabled) throw new Error('disabled'); e.value = {value}; \
             for (const kind of ['input', 'change']) e.dispatchEvent(new Event(kind, {{ bubbles: true }})); }})()",
            find(selector)
        ));
    }

    /// Gives an element the keyboard focus.
    pub fn focus(&mut self, selector: &str) {
        self.value(&format!("{}.focus()", find(selector)));
    }

    /// Presses a key: `Tab`, `Enter`, `ArrowLeft`, `Space`, ...
    pub fn press(&mut self, key: &str) {
        let (name, code, text) = match key {
            "Tab" => ("Tab", 9, ""),
            "Enter" => ("Enter", 13, "\r"),
            "Escape" => ("Escape", 27, ""),
            "Space" => (" ", 32, " "),
            "End" => ("End", 35, ""),
            "Home" => ("Home", 36, ""),
            "ArrowLeft" => ("ArrowLeft", 37, ""),
            "ArrowUp" => ("ArrowUp", 38, ""),
            "ArrowRight" => ("ArrowRight", 39, ""),
            "ArrowDown" => ("ArrowDown", 40, ""),
            _ => panic!("add the key {key} here"),
        };
        let down = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        for kind in [down, "keyUp"] {
            let mut event = json!({ "type": kind, "key": name, "code": key, "windowsVirtualKeyCode": code });
            if kind == "keyDown" {
                event["text"] = json!(text);
            }
            self.call("Input.dispatchKeyEvent", event);
        }
    }

    /// Waits until a JavaScript expression is true.
    pub fn wait_until(&mut self, expression: &str, limit: Duration) {
        let start = Instant::now();
        while self.value(&format!("Boolean({expression})")) != json!(true) {
            assert!(
                start.elapsed() < limit,
                "still not true after {limit:?}: {expression}\nthe page shows: {}\nerrors: {:?}",
                self.value("document.body.innerText"),
                self.errors
            );
            std::thread::sleep(Duration::from_millis(30));
        }
    }

    /// Sets the window size in CSS pixels; a narrow one is emulated as a phone.
    pub fn resize(&mut self, width: u32, height: u32) {
        let mobile = width < 600;
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile });
        self.call("Emulation.setDeviceMetricsOverride", metrics);
    }

    /// Sets a media feature, such as `prefers-color-scheme` `dark` or `prefers-reduced-motion` `reduce`, and clears
    /// previous ones.
    pub fn prefer(&mut self, feature: &str, value: &str) {
        let features = json!([{ "name": feature, "value": value }]);
        self.call("Emulation.setEmulatedMedia", json!({ "features": features }));
    }

    /// Returns role and name of all elements that a screen reader can focus and activate.
    pub fn controls(&mut self) -> Vec<(String, String)> {
        let tree = self.call("Accessibility.getFullAXTree", json!({}));
        let word = |value: &Value| value["value"].as_str().unwrap_or_default().to_owned();
        let nodes = tree["nodes"].as_array().unwrap().iter().filter(|node| node["ignored"] != true);
        nodes
            .map(|node| (word(&node["role"]), word(&node["name"])))
            .filter(|(role, _)| {
                ["button", "slider", "radio", "image", "img", "progressbar"].contains(&role.as_str())
            })
            .collect()
    }

    /// Saves a screenshot at this window size as PNG.
    pub fn screenshot(&mut self, path: &Path, width: u32, height: u32) {
        self.resize(width, height);
        // Two frames: one for layout, one for drawing.
        self.value("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(() => setTimeout(done, 150))))");
        let answer = self.call("Page.captureScreenshot", json!({ "format": "png" }));
        std::fs::write(path, base64(answer["data"].as_str().unwrap())).unwrap();
    }

    /// Saves a screenshot under this name in the folder MIRAGE_SCREENSHOTS, if that variable is set.
    pub fn keep(&mut self, name: &str, width: u32, height: u32) {
        if let Some(folder) = std::env::var_os("MIRAGE_SCREENSHOTS") {
            self.screenshot(&Path::new(&folder).join(format!("{name}.png")), width, height);
        }
    }

    /// Returns all console errors so far, including exceptions.
    pub fn errors(&mut self) -> &[String] {
        // Reading this answer also reads all earlier events.
        self.value("0");
        &self.errors
    }

    /// Returns all addresses requested so far.
    pub fn requests(&mut self) -> &[String] {
        self.value("0");
        &self.requests
    }

    /// Calls a method of the DevTools protocol.
    pub fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let mut message = json!({ "id": self.next, "method": method, "params": parameters });
        if !self.session.is_null() {
            message["sessionId"] = self.session.clone();
        }
        self.socket.send(Message::text(message.to_string())).unwrap();
        loop {
            let text = match self.socket.read() {
                Ok(Message::Text(text)) => text,
                Ok(_) => continue,
                Err(error) => panic!("{method}: {error} (browser ended: {:?})", self.process.0.try_wait()),
            };
            let mut answer: Value = serde_json::from_str(&text).unwrap();
            if answer["id"] == json!(self.next) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.event(&answer);
        }
    }

    fn event(&mut self, event: &Value) {
        let details = &event["params"];
        match event["method"].as_str() {
            Some("Network.requestWillBeSent") => {
                self.requests.push(details["request"]["url"].as_str().unwrap_or_default().to_owned());
            }
            Some("Network.webSocketCreated") => {
                self.requests.push(details["url"].as_str().unwrap_or_default().to_owned());
            }
            Some("Runtime.exceptionThrown") => self.errors.push(details["exceptionDetails"].to_string()),
            Some("Runtime.consoleAPICalled") if details["type"] == "error" => {
                self.errors.push(details["args"].to_string());
            }
            Some("Log.entryAdded") if details["entry"]["level"] == "error" => {
                self.errors.push(details["entry"].to_string());
            }
            _ => {}
        }
    }
}

/// Returns a JavaScript expression that finds the element.
fn find(selector: &str) -> String {
    format!("(document.querySelector({0}) ?? (() => {{ throw new Error({0}) }})())", json!(selector))
}

/// Waits for port and path of the browser's socket, which it writes to its profile.
fn wait_for_port(file: &Path, log: &Path) -> (u16, String) {
    let start = Instant::now();
    loop {
        let text = std::fs::read_to_string(file).unwrap_or_default();
        let mut lines = text.lines();
        if let (Some(Ok(port)), Some(path)) = (lines.next().map(str::parse), lines.next()) {
            return (port, path.to_owned());
        }
        assert!(
            start.elapsed() < TIMEOUT,
            "chromium doesn't answer: {}",
            std::fs::read_to_string(log).unwrap_or_default()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Decodes base64.
fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let digits: Vec<u8> = text.bytes().filter_map(digit).collect();
    digits
        .chunks(4)
        .flat_map(|chunk| {
            let bits = chunk.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
            let bits = bits << (6 * (4 - chunk.len()));
            bits.to_be_bytes()[1..chunk.len()].to_vec()
        })
        .collect()
}
