//! Files up and down, packed bodies, limits of a request, and what a usual bot calls.

use std::io::Write;

use crate::common::{Answer, Client, TOKEN, call, emulator, get};
use pollux_botapi::{Emulator, Fault, FaultKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// One part of a form.
fn part(name: &str, file: Option<&str>, content: &str) -> String {
    let file = file.map(|f| format!("; filename=\"{f}\"")).unwrap_or_default();
    format!("--X\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{content}\r\n")
}

/// Sends a form in chunks of a mebibyte, as `io.Pipe` does. None: the connection ended without an answer.
async fn upload(emulator: &Emulator, method: &str, field: &str, size: usize) -> Option<Answer> {
    let mut client = Client::connect(&emulator.url()).await;
    let head = "Host: x\r\nContent-Type: multipart/form-data; boundary=X\r\nTransfer-Encoding: chunked";
    client.send(&format!("POST /bot{TOKEN}/{method} HTTP/1.1\r\n{head}\r\n\r\n")).await;
    let form = part("chat_id", None, "7")
        + &format!("--X\r\nContent-Disposition: form-data; name=\"{field}\"; filename=\"a.bin\"\r\n\r\n");
    let (mut read, mut write) = client.0.into_split();
    let writer = tokio::spawn(async move {
        let mut chunk = async |bytes: &[u8]| {
            write.write_all(format!("{:x}\r\n", bytes.len()).as_bytes()).await?;
            write.write_all(bytes).await?;
            write.write_all(b"\r\n").await
        };
        chunk(form.as_bytes()).await?;
        let block = vec![b'z'; 1 << 20];
        let mut left = size;
        while left > 0 {
            let now = left.min(block.len());
            chunk(&block[..now]).await?;
            left -= now;
        }
        chunk(b"\r\n--X--\r\n").await?;
        write.write_all(b"0\r\n\r\n").await?;
        // Kept open until the answer was read.
        Ok::<_, std::io::Error>(write)
    });
    let mut text = Vec::new();
    let mut part = [0_u8; 4096];
    while !text.ends_with(b"}") {
        match read.read(&mut part).await {
            Ok(0) | Err(_) => return None,
            Ok(n) => text.extend(&part[..n]),
        }
    }
    drop(writer.await);
    let text = String::from_utf8(text).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status");
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}

#[tokio::test]
async fn what_was_uploaded_is_downloaded_again_whole_and_in_parts() {
    let emulator = emulator().await;
    let sent = upload(&emulator, "sendDocument", "document", 3 << 20).await.expect("an answer").json();
    let document = &sent["result"]["document"];
    assert_eq!((document["file_size"].as_u64(), document["file_name"].as_str()), (Some(3 << 20), Some("a.bin")));
    let id = document["file_id"].as_str().expect("an id");
    let file = call(&emulator.url(), "getFile", &format!(r#"{{"file_id":"{id}"}}"#)).await.json();
    let path = format!("/file/bot{TOKEN}/{}", file["result"]["file_path"].as_str().expect("a path"));
    assert!(path.ends_with(".bin"), "{path}");
    let whole = get(&emulator.url(), &path).await;
    assert!(whole.status == 200 && whole.body.len() == 3 << 20 && whole.body.bytes().all(|b| b == b'z'));
    assert!(whole.head.to_lowercase().contains("accept-ranges: bytes"), "{}", whole.head);
    let id = emulator.add_file(TOKEN, "abc.txt", "0123456789").expect("bot");
    let file = call(&emulator.url(), "getFile", &format!(r#"{{"file_id":"{id}"}}"#)).await.json();
    let path = format!("/file/bot{TOKEN}/{}", file["result"]["file_path"].as_str().expect("a path"));
    for (range, status, content, says) in [
        ("bytes=2-4", 206, "234", "bytes 2-4/10"),
        ("bytes=7-", 206, "789", "bytes 7-9/10"),
        ("bytes=-2", 206, "89", "bytes 8-9/10"),
        ("bytes=5-99", 206, "56789", "bytes 5-9/10"),
        ("bytes=10-", 416, "", "bytes */10"),
        ("bytes=4-2", 200, "0123456789", ""),
        ("lines=1-2", 200, "0123456789", ""),
    ] {
        let mut client = Client::connect(&emulator.url()).await;
        client.send(&format!("GET {path} HTTP/1.1\r\nHost: x\r\nRange: {range}\r\n\r\n")).await;
        let answer = client.read().await.expect("an answer");
        assert_eq!((answer.status, answer.body.as_str()), (status, content), "{range}");
        let header = answer.head.lines().find_map(|l| l.strip_prefix("content-range: ")).unwrap_or("");
        assert_eq!(header, says, "{range}");
    }
}

#[tokio::test]
async fn head_tells_the_length_and_sends_nothing() {
    let emulator = emulator().await;
    emulator.add_file(TOKEN, "a.txt", "0123456789").expect("bot");
    let mut client = Client::connect(&emulator.url()).await;
    let path = format!("/file/bot{TOKEN}/documents/file_1.txt");
    client.send(&format!("HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    let mut answer = String::new();
    client.0.read_to_string(&mut answer).await.expect("text");
    assert!(answer.to_lowercase().contains("content-length: 10") && answer.ends_with("\r\n\r\n"), "{answer}");
}

#[tokio::test]
async fn a_download_that_does_not_exist_or_of_another_bot_is_refused_and_faults_strike_downloads() {
    let emulator = emulator().await;
    emulator.add_file(TOKEN, "a.txt", "0123456789").expect("bot");
    emulator.add_bot("7:x", "other_bot").expect("a token");
    let path = "documents/file_1.txt";
    assert_eq!(get(&emulator.url(), &format!("/file/bot{TOKEN}/{path}")).await.status, 200);
    assert_eq!(get(&emulator.url(), &format!("/file/bot{TOKEN}/documents/file_1.png")).await.status, 404);
    assert_eq!(get(&emulator.url(), &format!("/file/bot7:x/{path}")).await.status, 404);
    assert_eq!(get(&emulator.url(), &format!("/file/bot8:x/{path}")).await.status, 401);
    emulator.fault(TOKEN, Fault::new("file", FaultKind::Html(502))).expect("bot");
    assert_eq!(get(&emulator.url(), &format!("/file/bot{TOKEN}/{path}")).await.status, 502);
}

#[tokio::test]
async fn an_upload_of_50_mib_is_taken_and_one_byte_more_is_413() {
    let emulator = emulator().await;
    let answer = upload(&emulator, "sendDocument", "document", 50 << 20).await.expect("an answer").json();
    assert_eq!(answer["result"]["document"]["file_size"].as_u64(), Some(50 << 20));
    let id = answer["result"]["document"]["file_id"].as_str().expect("an id").to_owned();
    let file = call(&emulator.url(), "getFile", &format!(r#"{{"file_id":"{id}"}}"#)).await.json();
    assert_eq!(file["description"].as_str(), Some("Bad Request: file is too big"));
    let answer = upload(&emulator, "sendDocument", "document", (50 << 20) + 1).await.expect("an answer");
    assert_eq!((answer.status, answer.json()["error_code"].as_u64()), (413, Some(413)));
}

#[tokio::test]
async fn bodies_come_packed() {
    let emulator = emulator().await;
    let text = br#"{"chat_id":7,"text":"packed"}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    gzip.write_all(text).expect("memory");
    let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    zlib.write_all(text).expect("memory");
    let (gzip, zlib) = (gzip.finish().expect("memory"), zlib.finish().expect("memory"));
    for (encoding, body, status) in [
        ("gzip", &gzip, 200),
        ("deflate", &zlib, 200),
        ("gzip", &zlib, 200),
        ("br", &gzip, 415),
        ("gzip", &text.to_vec(), 400),
    ] {
        let mut client = Client::connect(&emulator.url()).await;
        let head =
            format!("Content-Type: application/json\r\nContent-Encoding: {encoding}\r\nContent-Length: {}", body.len());
        client.send(&format!("POST /bot{TOKEN}/sendMessage HTTP/1.1\r\nHost: x\r\n{head}\r\n\r\n")).await;
        client.0.write_all(body).await.expect("write");
        let answer = client.read().await.expect("an answer");
        assert_eq!(answer.status, status, "{encoding}: {answer:?}");
        if status == 200 {
            assert_eq!(answer.json()["result"]["text"].as_str(), Some("packed"));
        }
    }
}

#[tokio::test]
async fn limits_of_a_request() {
    let emulator = emulator().await;
    let path = format!("/bot{TOKEN}/sendMessage");
    let post = async |content_type: &str, body: &str| {
        Client::connect(&emulator.url()).await.post(&path, content_type, body).await.map(|a| (a.status, a.body))
    };
    let text = |n: usize| "x".repeat(n);
    let form = "application/x-www-form-urlencoded";
    assert_eq!(post(form, &format!("chat_id=1&text={}", text(1_000_000))).await.expect("an answer").0, 200);
    assert_eq!(post(form, &format!("chat_id=1&text={}", text(1 << 20))).await, Some((413, String::new())));
    assert_eq!(post("application/json", &format!("\"{}\"", text(1 << 20))).await, Some((413, String::new())));
    let parts = part("chat_id", None, "1") + &part("text", None, &text(1 << 20)) + "--X--\r\n";
    assert_eq!(post("multipart/form-data; boundary=X", &parts).await, Some((413, String::new())));
    assert_eq!(post("multipart/form-data", "x").await, Some((400, String::new())));
    let long = text(71);
    assert_eq!(post(&format!("multipart/form-data; boundary={long}"), "x").await, Some((400, String::new())));
    let files: String = (0..51).map(|n| part(&format!("f{n}"), Some("a"), "x")).collect();
    assert_eq!(post("multipart/form-data; boundary=X", &(files + "--X--\r\n")).await, Some((413, String::new())));
    for (size, status) in [(200 << 10, 200), (300 << 10, 431), (700 << 10, 431)] {
        let mut client = Client::connect(&emulator.url()).await;
        let request = format!("GET /bot{TOKEN}/getMe HTTP/1.1\r\nHost: x\r\nX-Long: {}\r\n\r\n", text(size));
        // The answer may come before all was written.
        let _ = client.0.write_all(request.as_bytes()).await;
        assert_eq!(client.read().await.map(|a| a.status), Some(status), "{size}");
    }
}

#[tokio::test]
async fn http_1_0_and_other_verbs() {
    let emulator = emulator().await;
    let mut client = Client::connect(&emulator.url()).await;
    client.send(&format!("GET /bot{TOKEN}/getMe HTTP/1.0\r\n\r\n")).await;
    let answer = client.read().await.expect("an answer");
    assert_eq!((answer.status, answer.json()["ok"].as_bool()), (200, Some(true)));
    for verb in ["PUT", "DELETE", "HEAD", "PATCH", "OPTIONS"] {
        let mut client = Client::connect(&emulator.url()).await;
        client.send(&format!("{verb} /bot{TOKEN}/getMe HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(client.read().await.expect("an answer").status, 501, "{verb}");
    }
}

#[tokio::test]
async fn what_a_usual_bot_calls_is_answered() {
    let emulator = emulator().await;
    let url = emulator.url();
    for (method, arguments, pointer) in [
        ("editMessageText", r#"{"chat_id":7,"message_id":3,"text":"new"}"#, "/result/edit_date"),
        ("editMessageCaption", r#"{"chat_id":7,"message_id":3,"caption":"new"}"#, "/result/message_id"),
        ("editMessageReplyMarkup", r#"{"chat_id":-7,"message_id":3}"#, "/result/chat/title"),
        ("sendPhoto", r#"{"chat_id":7,"photo":"https://example.org/a.png"}"#, "/result/photo/0/file_id"),
        ("sendVoice", r#"{"chat_id":7,"voice":"file-9"}"#, "/result/voice/duration"),
        ("sendLocation", r#"{"chat_id":7,"latitude":1.5,"longitude":2}"#, "/result/location/latitude"),
        ("sendPoll", r#"{"chat_id":7,"question":"?","options":["a","b"]}"#, "/result/poll/question"),
        ("sendDice", r#"{"chat_id":7}"#, "/result/dice/value"),
        ("copyMessage", r#"{"chat_id":7,"from_chat_id":8,"message_id":3}"#, "/result/message_id"),
        ("sendMediaGroup", r#"{"chat_id":7,"media":[{"type":"photo","media":"x"}]}"#, "/result/0/photo/0/file_id"),
        ("forwardMessage", r#"{"chat_id":7,"from_chat_id":8,"message_id":3}"#, "/result/message_id"),
        ("getChat", r#"{"chat_id":7}"#, "/result/first_name"),
        ("getChatMember", r#"{"chat_id":7,"user_id":8}"#, "/result/status"),
    ] {
        let answer = call(&url, method, arguments).await;
        assert!(answer.status == 200 && answer.json().pointer(pointer).is_some(), "{method}: {answer:?}");
    }
    for method in
        ["deleteMessage", "answerCallbackQuery", "sendChatAction", "banChatMember", "pinChatMessage", "setMyName"]
    {
        assert_eq!(call(&url, method, r#"{"chat_id":7}"#).await.json()["result"].as_bool(), Some(true), "{method}");
    }
    let list = r#"{"commands":[{"command":"a","description":"b"}],"language_code":"en"}"#;
    assert_eq!(call(&url, "setMyCommands", list).await.json()["result"].as_bool(), Some(true));
    let commands = async |arguments: &str| call(&url, "getMyCommands", arguments).await.json()["result"].clone();
    assert_eq!(commands(r#"{"language_code":"en"}"#).await[0]["command"].as_str(), Some("a"));
    assert_eq!(commands("{}").await.as_array().map(Vec::len), Some(0), "another language");
    for (method, arguments, says) in [
        ("sendPhoto", r#"{"chat_id":7}"#, "there is no photo"),
        ("editMessageText", r#"{"chat_id":7,"text":"x"}"#, "message identifier is not specified"),
        ("getFile", r#"{"file_id":"nonsense"}"#, "wrong file_id"),
        ("getChat", "{}", "chat_id is empty"),
    ] {
        let answer = call(&url, method, arguments).await;
        assert!(answer.status == 400 && answer.body.contains(says), "{method}: {answer:?}");
    }
}
