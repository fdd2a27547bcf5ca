// Pixels as Pillow makes them: the server and this page must give a model the same bytes.
//
// The same steps as xtrain/images/conversion.py, and the same integers as Pillow 13; the tests compare every byte.
"use strict";

(function () {
  /**
   * @typedef {object} Picture
   * @property {number} width
   * @property {number} height
   * @property {number} channels  1 (grey), 3 (RGB) or 4 (RGBA, not premultiplied)
   * @property {Uint8Array | Uint8ClampedArray} data  row by row, channels interleaved
   */

  const PRECISION = 22; // bits after the point: an int32 less 8 bits of a pixel and 2 that the sum may need
  const HALF = 1 << (PRECISION - 1);

  /**
   * The weights of the source pixels that make each pixel of a resized line: a triangle, as wide as a target pixel where
   * the line shrinks, so that no source pixel is skipped.
   * @param {number} from  length of the line
   * @param {number} to  length of the resized line
   * @returns {{first: number, weights: Int32Array}[]}  for each target pixel
   */
  function triangles(from, to) {
    const scale = from / to;
    const reach = Math.max(scale, 1);
    return Array.from({ length: to }, (_, target) => {
      const centre = (target + 0.5) * scale;
      const first = Math.max(Math.trunc(centre - reach + 0.5), 0);
      const end = Math.min(Math.trunc(centre + reach + 0.5), from);
      // Multiplied by the inverse, and added up from the left: other orders round to other integers.
      const shares = Array.from({ length: end - first }, (_, index) =>
        Math.max(1 - Math.abs((index + first - centre + 0.5) * (1 / reach)), 0),
      );
      const sum = shares.reduce((a, b) => a + b, 0);
      const weights = Int32Array.from(shares, (share) => Math.trunc((share / sum) * (1 << PRECISION) + 0.5));
      return { first, weights };
    });
  }

  /**
   * Resize the lines of one direction.
   * @param {Uint8Array | Uint8ClampedArray} source
   * @param {number} lines  their number
   * @param {{first: number, weights: Int32Array}[]} plan  of `triangles`
   * @param {number} channels
   * @param {(line: number, index: number) => number} from  offset of a source pixel
   * @param {(line: number, index: number) => number} to  offset of a target pixel
   * @returns {Uint8Array}
   */
  function resizeLines(source, lines, plan, channels, from, to) {
    const result = new Uint8Array(lines * plan.length * channels);
    for (let line = 0; line < lines; line++) {
      const step = from(line, 1) - from(line, 0);
      plan.forEach(({ first, weights }, target) => {
        for (let channel = 0; channel < channels; channel++) {
          let sum = HALF;
          let offset = from(line, first) + channel;
          for (let index = 0; index < weights.length; index++, offset += step) sum += source[offset] * weights[index];
          result[to(line, target) + channel] = Math.min(sum >> PRECISION, 255);
        }
      });
    }
    return result;
  }

  /**
   * @param {Picture} picture
   * @param {number} width
   * @returns {Picture}
   */
  function resizeRows(picture, width) {
    if (width === picture.width) return picture;
    const { height, channels } = picture;
    const offset = (/** @type {number} */ across) => (/** @type {number} */ y, /** @type {number} */ x) =>
      (y * across + x) * channels;
    const plan = triangles(picture.width, width);
    const data = resizeLines(picture.data, height, plan, channels, offset(picture.width), offset(width));
    return { width, height, channels, data };
  }

  /**
   * @param {Picture} picture
   * @param {number} height
   * @returns {Picture}
   */
  function resizeColumns(picture, height) {
    if (height === picture.height) return picture;
    const { width, channels } = picture;
    const offset = (/** @type {number} */ x, /** @type {number} */ y) => (y * width + x) * channels;
    const data = resizeLines(picture.data, width, triangles(picture.height, height), channels, offset, offset);
    return { width, height, channels, data };
  }

  /**
   * Resize as Pillow 13's BILINEAR: in two passes, with bytes in between, so that their order tells in the last bit.
   * @param {Picture} picture
   * @param {number} width
   * @param {number} height
   * @returns {Picture}
   */
  function resize(picture, width, height) {
    const shorter = picture.height - height;
    const columnsFirst = shorter > 0 && shorter > 2 * (picture.width - width);
    return columnsFirst
      ? resizeRows(resizeColumns(picture, height), width)
      : resizeColumns(resizeRows(picture, width), height);
  }

  /**
   * RGBA over white, the background of a bright-field slide, in RGB.
   * @param {Picture} picture  of 4 channels
   * @returns {Picture}
   */
  function overWhite({ width, height, data }) {
    const result = new Uint8Array(width * height * 3);
    for (let from = 0, to = 0; from < data.length; from += 4) {
      const alpha = data[from + 3];
      for (let channel = 0; channel < 3; channel++) {
        const sum = (data[from + channel] * alpha + 255 * (255 - alpha) + 128) << 7;
        result[to++] = ((sum >> 8) + sum) >> 15; // Pillow's division by 255, with 7 bits more than the result needs
      }
    }
    return { width, height, channels: 3, data: result };
  }

  /**
   * RGB as grey, with the weights of ITU-R 601 in 16 bits.
   * @param {Picture} picture  of 3 channels
   * @returns {Picture}
   */
  function grey({ width, height, data }) {
    const result = new Uint8Array(width * height);
    for (let from = 0, to = 0; to < result.length; from += 3, to++) {
      result[to] = (data[from] * 19595 + data[from + 1] * 38470 + data[from + 2] * 7471 + 0x8000) >> 16;
    }
    return { width, height, channels: 1, data: result };
  }

  /**
   * Grey as RGB.
   * @param {Picture} picture  of 1 channel
   * @returns {Picture}
   */
  function rgb({ width, height, data }) {
    return { width, height, channels: 3, data: Uint8Array.from({ length: data.length * 3 }, (_, i) => data[Math.trunc(i / 3)]) };
  }

  /**
   * What a model takes from a picture; as `xtrain.images.conversion.fit`.
   * @param {Picture} picture
   * @param {[number, number, number]} shape  height, width, channels of the model's input
   * @returns {Uint8Array}
   */
  function fit(picture, [height, width, channels]) {
    let result = picture.channels === 4 ? overWhite(picture) : picture;
    if (channels === 1 && result.channels === 3) result = grey(result);
    result = resize(result, width, height);
    if (channels === 3 && result.channels === 1) result = rgb(result);
    return new Uint8Array(result.data);
  }

  /**
   * Any picture in RGB, transparency over white.
   * @param {Picture} picture
   * @returns {Picture}
   */
  function asRgb(picture) {
    return picture.channels === 4 ? overWhite(picture) : picture.channels === 1 ? rgb(picture) : picture;
  }

  globalThis.xtrain = { ...globalThis.xtrain, pixels: { fit, grey, overWhite, resize, rgb: asRgb } };
})();
