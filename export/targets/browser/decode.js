// An image's pixels, as the server decodes them; what the browser would decode to others is refused.
"use strict";

(function () {
  /** @param {Uint8Array} bytes  @param {number} at  @param {string} text  @returns {boolean} */
  const has = (bytes, at, text) => [...text].every((letter, index) => bytes[at + index] === letter.charCodeAt(0));

  /**
   * @param {Blob} file
   * @returns {Promise<Picture>}
   */
  async function decode(file) {
    const bytes = new Uint8Array(await file.arrayBuffer());
    if (has(bytes, 0, "II") || has(bytes, 0, "MM")) {
      refuseAmbiguous(bytes, false);
      return decodeTiff(bytes);
    }
    const isPng = has(bytes, 0, "\x89PNG\r\n\x1a\n");
    const isWebp = has(bytes, 0, "RIFF") && has(bytes, 8, "WEBP");
    if (!isPng && !isWebp && !has(bytes, 0, "\xff\xd8") && !has(bytes, 0, "BM")) {
      throw new Error("no PNG, JPEG, WebP, BMP or TIFF");
    }
    // Flags of an extended WebP: 2 animated, 8 with EXIF, whose orientation Chromium leaves alone and Pillow applies.
    if (isWebp && has(bytes, 12, "VP8X") && bytes[20] & 10) throw new Error("a WebP with frames or EXIF; save it as PNG");
    refuseAmbiguous(bytes, isPng);
    if (isPng) checkSize(...pngSize(bytes));
    const isDeep = isPng && bytes[24] === 16;
    if (isDeep && (bytes[25] & 4 || holds(bytes, "tRNS", HEADER))) {
      throw new Error("a PNG of 16 bits a channel with transparency; save 8 bits a channel");
    }
    const picture = await decodeByBrowser(file);
    if (isDeep) refuseFewerBits(picture);
    return picture;
  }

  const MAX_PIXELS = 25_000_000; // as the server's
  const HEADER = 65_536; // bytes in which what stands before the pixels is looked for

  function checkSize(width, height) {
    if (width * height > MAX_PIXELS) throw new Error("the image has more than 25 megapixels");
  }

  function pngSize(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset);
    return bytes.length < 24 ? [0, 0] : [view.getUint32(16), view.getUint32(20)];
  }

  /** Whether a text occurs in the first bytes. */
  function holds(bytes, text, length) {
    return new TextDecoder("latin1").decode(bytes.subarray(0, length)).includes(text);
  }

  /** What Pillow and browsers read in different ways. */
  function refuseAmbiguous(bytes, isPng) {
    if (/tiff:Orientation(\s*=\s*["']|>)[2-8]/.test(new TextDecoder("latin1").decode(bytes))) {
      throw new Error("an orientation in XMP; turn the image upright, and save it without");
    }
    if (isPng && holds(bytes, "acTL", HEADER)) throw new Error("several pages; send one image a file");
    if (has(bytes, 0, "\xff\xd8") && holds(bytes, "MPF\0", HEADER)) throw new Error("several pages; send one image a file");
    if (has(bytes, 0, "BM") && bytes[28] === 16) throw new Error("a BMP of 16 bits; save it as PNG");
  }

  /**
   * Without conversion of colours: Pillow makes none. EXIF's orientation is applied, which is the default.
   * @param {Blob} file
   * @returns {Promise<Picture>}
   */
  async function decodeByBrowser(file) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(file, { colorSpaceConversion: "none", premultiplyAlpha: "none" });
    } catch {
      throw new Error("the image is damaged");
    }
    const { width, height } = bitmap;
    checkSize(width, height);
    const canvas = new OffscreenCanvas(width, height);
    // In main memory, not on a GPU, whose rounding is its own.
    const context = canvas.getContext("2d", { willReadFrequently: true });
    if (!context) throw new Error(`no memory for ${width} x ${height} pixels`);
    context.drawImage(bitmap, 0, 0);
    bitmap.close();
    // Premultiplied by alpha meanwhile; that loses bits of the colours, and none of them once they lie over white.
    return { width, height, channels: 4, data: context.getImageData(0, 0, width, height).data };
  }

  /** @param {Picture} picture  of 16 bits a channel, of which the upper 8 are left */
  function refuseFewerBits({ data }) {
    for (let at = 0; at < data.length; at++) if (at % 4 !== 3 && data[at] >= 16) return;
    throw new Error("16 bits a channel without a bright pixel; scale it to 0-65535, or save 8 bits a channel");
  }

  /**
   * TIFF as scanners and NCT-CRC-HE-100K write it, which no browser but Safari decodes: 8 bits, grey or RGB, in strips.
   * @param {Uint8Array} bytes
   * @returns {Promise<Picture>}
   */
  async function decodeTiff(bytes) {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    const little = has(bytes, 0, "II");
    const refuse = (/** @type {string} */ what) => new Error(`a TIFF with ${what}; save it as PNG`);
    if (view.getUint16(2, little) !== 42) throw refuse("64-bit offsets");
    const directory = view.getUint32(4, little);
    const count = view.getUint16(directory, little);
    /** @type {Map<number, number[]>} */
    const tags = new Map();
    for (let entry = directory + 2; entry < directory + 2 + 12 * count; entry += 12) {
      const size = { 1: 1, 3: 2, 4: 4 }[view.getUint16(entry + 2, little)]; // bytes, shorts, longs; no fractions
      const values = view.getUint32(entry + 4, little);
      if (!size || values > bytes.length) continue;
      const at = size * values > 4 ? view.getUint32(entry + 8, little) : entry + 8;
      const read = { 1: view.getUint8, 2: view.getUint16, 4: view.getUint32 }[size].bind(view);
      tags.set(view.getUint16(entry, little), Array.from({ length: values }, (_, index) => read(at + index * size, little)));
    }
    const tag = (/** @type {number} */ number, /** @type {number} */ other) => tags.get(number)?.[0] ?? other;
    const [width, height, channels] = [tag(256, 0), tag(257, 0), tag(277, 1)];
    checkSize(width, height);
    if (view.getUint32(directory + 2 + 12 * count, little)) throw refuse("several pages");
    if (!(tags.get(258) ?? [1]).every((bits) => bits === 8)) throw refuse("other than 8 bits a channel");
    if (!(channels === 1 && tag(262, 0) === 1) && !(channels === 3 && tag(262, 0) === 2)) {
      throw refuse("other colours than grey or RGB");
    }
    if (tag(266, 1) !== 1 || tag(339, 1) !== 1) throw refuse("bits from the right, or numbers with a sign");
    if (!tags.has(273) || tag(284, 1) !== 1) throw refuse("tiles or planes");
    if (tag(274, 1) !== 1) throw refuse("an orientation");
    const unpackStrip = { 1: (/** @type {Uint8Array} */ strip) => strip, 8: inflate, 32946: inflate, 32773: unpackBits, 5: unpackLzw }[tag(259, 1)];
    if (!unpackStrip) throw refuse(`compression ${tag(259, 1)}`);
    const [starts, lengths] = [tags.get(273) ?? [], tags.get(279) ?? []];
    const data = new Uint8Array(width * height * channels);
    const row = width * channels;
    for (let strip = 0, to = 0; strip < starts.length; strip++) {
      const part = await unpackStrip(bytes.subarray(starts[strip], starts[strip] + lengths[strip]));
      data.set(part.subarray(0, data.length - to), to);
      to += Math.min(row * tag(278, height), part.length);
      if (strip === starts.length - 1 && to < data.length) throw new Error("the image is damaged");
    }
    if (tag(317, 1) === 2) {
      for (let at = 0; at < data.length; at++) if (at % row >= channels) data[at] += data[at - channels];
    } else if (tag(317, 1) !== 1) throw refuse("floats");
    return { width, height, channels, data };
  }

  /** @param {Uint8Array} strip  @returns {Promise<Uint8Array>} */
  async function inflate(strip) {
    const stream = new Blob([strip]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }

  /** @param {Uint8Array} strip  @returns {Uint8Array} */
  function unpackBits(strip) {
    const result = [];
    for (let at = 0; at < strip.length; ) {
      const length = strip[at++];
      if (length < 128) {
        for (const end = at + length + 1; at < end; at++) result.push(strip[at]);
      } else if (length > 128) {
        for (let times = 257 - length; times > 0; times--) result.push(strip[at]);
        at++;
      }
    }
    return Uint8Array.from(result);
  }

  /** @param {Uint8Array} strip  @returns {Uint8Array} */
  function unpackLzw(strip) {
    const result = [];
    /** @type {number[][]} */
    let table = [];
    /** @type {number[] | null} */
    let last = null;
    let [bits, held, width] = [0, 0, 9];
    for (const byte of strip) {
      [held, bits] = [((held << 8) | byte) & 0xffffff, bits + 8];
      if (bits < width) continue;
      bits -= width;
      const code = (held >> bits) & ((1 << width) - 1);
      if (code === 257) break;
      if (code === 256) {
        [table, last, width] = [Array.from({ length: 258 }, (_, value) => [value]), null, 9];
        continue;
      }
      const known = table[code];
      if (!known && !last) throw new Error("the image is damaged");
      const word = known ?? [...last, last[0]];
      for (const value of word) result.push(value);
      if (last) table.push([...last, word[0]]);
      last = word;
      if (table.length >= (1 << width) - 1 && width < 12) width++; // one code early: TIFF's way
    }
    return Uint8Array.from(result);
  }

  globalThis.xtrain = { ...globalThis.xtrain, decode };
})();
