//! A request's body as a stream: unpacked when it is packed, read within the server's limits.
//!
//! * `Content-Encoding: gzip` and `deflate`; which one it is, the first byte says (the server lets zlib guess, too). Others are 415.
//! * Arguments: 1 MiB in all; what is beyond is 413. Boundaries: 70 characters; longer or missing ones are 400.
//! * Files: 50 of a request, 50 MB each. Their bytes are counted, and kept up to 20 MB: larger ones cannot be downloaded anyway.

use std::io::{self, Write};

use bytes::{Bytes, BytesMut};
use flate2::write::{GzDecoder, ZlibDecoder};
use futures::{Stream, StreamExt, stream::BoxStream};

pub(crate) const MAX_ARGUMENTS: usize = 1 << 20;
pub(crate) const MAX_DOWNLOAD: u64 = 20 << 20;
const MAX_UPLOAD: u64 = 50 << 20;
const MAX_FILES: usize = 50;
const MAX_BOUNDARY: usize = 70;

/// The body of a request.
pub(crate) type Body = BoxStream<'static, io::Result<Bytes>>;

/// The request is not even read to its end: this status, and the connection is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// Without a body, as the HTTP reader of the server answers.
    Bare(u16),
    /// A file is too big: in Telegram's words.
    Upload,
}

/// A file that came with a request.
#[derive(Clone, Debug)]
pub(crate) struct Upload {
    /// The name of the form's field.
    pub(crate) field: String,
    /// The name of the file.
    pub(crate) name: String,
    pub(crate) size: u64,
    /// None: too big to be kept.
    pub(crate) content: Option<Bytes>,
}

/// Unpacks a body.
pub(crate) fn decoded(encoding: &str, body: Body) -> Result<Body, Refused> {
    match encoding {
        "" | "none" => Ok(body),
        "gzip" | "deflate" => Ok(unpacked(body).boxed()),
        _ => Err(Refused::Bare(415)),
    }
}

enum Unpacker {
    Gzip(GzDecoder<Vec<u8>>),
    Zlib(ZlibDecoder<Vec<u8>>),
}

// === impl Unpacker ===

impl Unpacker {
    fn new(first: u8) -> Self {
        if first == 0x1f { Self::Gzip(GzDecoder::new(Vec::new())) } else { Self::Zlib(ZlibDecoder::new(Vec::new())) }
    }

    fn put(&mut self, packed: &[u8]) -> io::Result<Bytes> {
        let output = match self {
            Self::Gzip(unpacker) => {
                unpacker.write_all(packed)?;
                unpacker.get_mut()
            }
            Self::Zlib(unpacker) => {
                unpacker.write_all(packed)?;
                unpacker.get_mut()
            }
        };
        Ok(std::mem::take(output).into())
    }

    fn finish(&mut self) -> io::Result<Bytes> {
        match self {
            Self::Gzip(unpacker) => unpacker.try_finish().map(|()| std::mem::take(unpacker.get_mut()).into()),
            Self::Zlib(unpacker) => unpacker.try_finish().map(|()| std::mem::take(unpacker.get_mut()).into()),
        }
    }
}

fn unpacked(body: Body) -> impl Stream<Item = io::Result<Bytes>> {
    futures::stream::try_unfold((body, None::<Unpacker>), |(mut body, mut unpacker)| async move {
        loop {
            let Some(packed) = body.next().await.transpose()? else {
                let rest = unpacker.as_mut().map(Unpacker::finish).transpose()?.unwrap_or_default();
                // An empty body behind the end: the stream is polled once more, and `unpacker` is none then.
                return Ok((!rest.is_empty()).then_some((rest, (body, None))));
            };
            let Some(first) = packed.first() else { continue };
            let plain = unpacker.get_or_insert_with(|| Unpacker::new(*first)).put(&packed)?;
            if !plain.is_empty() {
                return Ok(Some((plain, (body, unpacker))));
            }
        }
    })
}

/// The whole body, when it is a small one.
pub(crate) async fn collected(mut body: Body) -> Result<Bytes, Refused> {
    let mut all = BytesMut::new();
    while let Some(part) = body.next().await {
        all.extend_from_slice(&part.map_err(|_| Refused::Bare(400))?);
        if all.len() > MAX_ARGUMENTS {
            return Err(Refused::Bare(413));
        }
    }
    Ok(all.freeze())
}

/// Reads a body that nobody asks for.
pub(crate) async fn drained(mut body: Body) -> Result<(), Refused> {
    let mut size = 0;
    while let Some(part) = body.next().await {
        size += part.map_err(|_| Refused::Bare(400))?.len() as u64;
        if size > MAX_UPLOAD {
            return Err(Refused::Upload);
        }
    }
    Ok(())
}

/// Reads a form of parts: arguments into `arguments`, files into the result.
pub(crate) async fn multipart(
    content_type: &str,
    body: Body,
    arguments: &mut Vec<(String, String)>,
) -> Result<Vec<Upload>, Refused> {
    let boundary = multer::parse_boundary(content_type).map_err(|_| Refused::Bare(400))?;
    if boundary.is_empty() || boundary.len() > MAX_BOUNDARY {
        return Err(Refused::Bare(400));
    }
    let mut parts = multer::Multipart::new(body, boundary);
    let (mut files, mut length) = (Vec::new(), 0);
    while let Some(mut part) = parts.next_field().await.map_err(|_| Refused::Bare(400))? {
        let Some(field) = part.name().map(str::to_owned) else {
            continue;
        };
        if let Some(name) = part.file_name().map(str::to_owned) {
            if files.len() == MAX_FILES {
                return Err(Refused::Bare(413));
            }
            let (size, content) = file(&mut part).await?;
            files.push(Upload { field, name, size, content });
            continue;
        }
        let mut value = BytesMut::new();
        while let Some(bytes) = part.chunk().await.map_err(|_| Refused::Bare(400))? {
            length += bytes.len();
            if length > MAX_ARGUMENTS {
                return Err(Refused::Bare(413));
            }
            value.extend_from_slice(&bytes);
        }
        arguments.push((field, String::from_utf8_lossy(&value).into_owned()));
    }
    Ok(files)
}

async fn file(part: &mut multer::Field<'_>) -> Result<(u64, Option<Bytes>), Refused> {
    let (mut size, mut content) = (0, BytesMut::new());
    while let Some(bytes) = part.chunk().await.map_err(|_| Refused::Bare(400))? {
        size += bytes.len() as u64;
        if size > MAX_UPLOAD {
            return Err(Refused::Upload);
        }
        if size > MAX_DOWNLOAD {
            content = BytesMut::new();
        } else {
            content.extend_from_slice(&bytes);
        }
    }
    Ok((size, (size <= MAX_DOWNLOAD).then(|| content.freeze())))
}
