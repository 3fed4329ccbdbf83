//! What comes back to a producer, from either loop.

use anyhow::{Context, Result, ensure};
use wire::messages::api_versions::ApiVersionsRequest;
use wire::messages::produce::ProduceResponse;
use wire::{ApiKey, Reader, ResponseHeader, Writer};

use crate::connection::{Sender, encode_request};
use crate::topic::check;

/// Fails unless the answer is the one that is due and every partition took its batch.
pub fn check_answer(frame: &[u8], version: i16, correlation_id: i32) -> Result<()> {
    let mut reader = Reader::new(frame);
    let header = ResponseHeader::decode(&mut reader, ApiKey::Produce, version)?;
    ensure!(
        header.correlation_id == correlation_id,
        "an answer out of order"
    );
    let response = ProduceResponse::decode(&mut reader, version)?;
    for topic in response.responses.iter() {
        for partition in topic.partition_responses.iter() {
            check(partition.error_code)
                .with_context(|| format!("partition {} refused a batch", partition.index))?;
        }
    }
    Ok(())
}

/// With acks=0 nothing is answered. Requests of a connection are handled in order, so once a last one of another kind has been answered,
/// the broker has taken all batches.
pub async fn send_fence(sender: &mut Sender, version: i16, correlation_id: i32) -> Result<()> {
    let mut request = Vec::new();
    let encode = |writer: &mut Writer<'_>| ApiVersionsRequest::default().encode(writer, version);
    encode_request(
        &mut request,
        ApiKey::ApiVersions,
        version,
        correlation_id,
        encode,
    )?;
    sender.send(request).await?;
    Ok(())
}
