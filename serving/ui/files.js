// Files out of what was dropped, chosen or pasted; folders with all that is below them.
"use strict";

(function () {
  const IMAGE = /\.(png|jpe?g|webp|bmp|tiff?)$/i;

  function read(reader) {
    return new Promise((resolve, reject) => reader.readEntries(resolve, reject));
  }

  async function* below(entry) {
    const path = entry.fullPath.replace(/^\//, "");
    if (entry.isFile) {
      try {
        yield { file: await new Promise((resolve, reject) => entry.file(resolve, reject)), path };
      } catch { // it is gone, or nobody may read it: it will be one result with an error
        yield { file: new File([], entry.name), path };
      }
      return;
    }
    const reader = entry.createReader();
    for (let entries = await read(reader); entries.length; entries = await read(reader)) { // a hundred at a time
      for (const child of entries) yield* below(child);
    }
  }

  /** {found: [{file, path}], skipped}: of folders only images, of which the others are counted. */
  function sorted(files, fromFolder) {
    const found = files.filter(({ file }) => !fromFolder || IMAGE.test(file.name));
    found.sort((a, b) => a.path.localeCompare(b.path, undefined, { numeric: true }));
    return { found, skipped: files.length - found.length };
  }

  /** What a drop or a paste holds. The entries must be asked for before the first wait; then they are gone. */
  async function transferred(transfer) {
    const entries = [...transfer.items].filter((item) => item.kind === "file").map((item) => item.webkitGetAsEntry?.());
    if (!entries.length || entries.some((entry) => !entry)) return chosen(transfer.files);
    const files = [];
    for (const entry of entries) {
      for await (const found of below(entry)) files.push(found);
    }
    return sorted(files, entries.some((entry) => entry.isDirectory));
  }

  /** What a file input holds. */
  function chosen(list) {
    const files = [...list].map((file) => ({ file, path: file.webkitRelativePath || file.name }));
    return sorted(files, files.some(({ file }) => file.webkitRelativePath));
  }

  globalThis.xtrain = { ...globalThis.xtrain, files: { chosen, transferred } };
})();
