//! Counts gRPC messages in a stream of bytes: five bytes of flag and length, then the message.

/// A counter of complete messages, whatever frames they are cut into.
#[derive(Debug, Default)]
pub(crate) struct MessageCounter {
    head: [u8; 5],
    head_len: usize,
    rest: u64,
}

impl MessageCounter {
    /// Takes the next bytes and says how many messages began in them.
    pub(crate) fn count(&mut self, mut data: &[u8]) -> u64 {
        let mut messages = 0;
        while !data.is_empty() {
            if self.rest > 0 {
                let skipped = usize::try_from(self.rest)
                    .unwrap_or(usize::MAX)
                    .min(data.len());
                self.rest -= skipped as u64;
                data = &data[skipped..];
                continue;
            }
            let taken = (5 - self.head_len).min(data.len());
            self.head[self.head_len..self.head_len + taken].copy_from_slice(&data[..taken]);
            self.head_len += taken;
            data = &data[taken..];
            if self.head_len == 5 {
                let [_, a, b, c, d] = self.head;
                self.rest = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.head_len = 0;
                messages += 1;
            }
        }
        messages
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_however_the_bytes_are_cut() {
        let mut stream = Vec::new();
        for len in [0_u32, 3, 300] {
            stream.push(0);
            stream.extend(len.to_be_bytes());
            stream.extend(vec![7; len as usize]);
        }
        for cut in 1..stream.len() {
            let mut counter = MessageCounter::default();
            assert_eq!(
                stream
                    .chunks(cut)
                    .map(|part| counter.count(part))
                    .sum::<u64>(),
                3,
                "{cut}"
            );
        }
    }
}
