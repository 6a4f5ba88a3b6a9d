// Conversations and their files in the browser's IndexedDB; where that is refused, they last as long as the page.

const NAME = "vlm-serve";

/** Open the database, or a substitute in memory whose `kept` is false. */
export async function openDatabase() {
  try {
    return new Database(await opened());
  } catch {
    return new MemoryDatabase();
  }
}

function opened() {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(NAME, 1);
    request.onupgradeneeded = () => {
      request.result.createObjectStore("conversations", { keyPath: "id" });
      request.result.createObjectStore("files"); // keys are [conversation, file]
    };
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

const result = (request) =>
  new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });

const ofConversation = (id) => IDBKeyRange.bound([id], [id, []]);

class Database {
  kept = true;
  #database;

  constructor(database) {
    this.#database = database;
    database.onversionchange = () => database.close(); // another tab has a newer page
  }

  /** All conversations, without the files' bytes. */
  all() {
    return result(this.#store("readonly", "conversations").getAll());
  }

  get(id) {
    return result(this.#store("readonly", "conversations").get(id));
  }

  /** The bytes of a conversation's file, or undefined. */
  file(id, fileId) {
    return result(this.#store("readonly", "files").get([id, fileId]));
  }

  /**
   * Store a conversation and the files that it names, in one transaction; its other files are deleted. `blobs` holds
   * the bytes of new files. Raises `QuotaExceededError` if the storage is full.
   */
  async save(conversation, blobs) {
    const transaction = this.#database.transaction(["conversations", "files"], "readwrite");
    const done = completed(transaction);
    const files = transaction.objectStore("files");
    transaction.objectStore("conversations").put(conversation);
    const request = files.getAllKeys(ofConversation(conversation.id));
    request.onsuccess = () => {
      const stored = new Set(request.result.map(([, fileId]) => fileId));
      const named = new Set(conversation.messages.flatMap((message) => message.files ?? []).map((file) => file.id));
      for (const fileId of stored) if (!named.has(fileId)) files.delete([conversation.id, fileId]);
      for (const fileId of named) {
        if (!stored.has(fileId) && blobs.has(fileId)) files.put(blobs.get(fileId), [conversation.id, fileId]);
      }
    };
    await done;
  }

  async remove(id) {
    const transaction = this.#database.transaction(["conversations", "files"], "readwrite");
    const done = completed(transaction);
    transaction.objectStore("conversations").delete(id);
    transaction.objectStore("files").delete(ofConversation(id));
    await done;
  }

  #store(mode, name) {
    return this.#database.transaction(name, mode).objectStore(name);
  }
}

function completed(transaction) {
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve();
    transaction.onabort = () => reject(transaction.error);
  });
}

class MemoryDatabase {
  kept = false;
  #conversations = new Map();

  async all() {
    return [...this.#conversations.values()].map((conversation) => structuredClone(conversation));
  }

  async get(id) {
    return structuredClone(this.#conversations.get(id));
  }

  async file() {
    return undefined; // the conversations' owner holds all blobs while the page is open
  }

  async save(conversation) {
    this.#conversations.set(conversation.id, structuredClone(conversation));
  }

  async remove(id) {
    this.#conversations.delete(id);
  }
}
