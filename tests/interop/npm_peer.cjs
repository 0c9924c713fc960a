// Run by Node: an agent that is AGT's client as npm publishes it. JSON lines in, JSON lines out.
//
//   {"do": "start", "registry", "relay", "proof"} -> {"did"} or {"error": "register failed: 422"}
//   {"do": "send", "to", "payloads": [any JSON]}  -> {}: begins a session if need be
//   {"do": "take", "count", "seconds"}            -> {"events": [...]}
//
// The client knows no proof of possession. With "proof", what it sends at its registration is given one, through the
// hooks that it has for that (`fetchImpl`, `authSigner`): nothing else of it is touched.
"use strict";
const crypto = require("node:crypto");
const readline = require("node:readline");
const WebSocket = require("ws");
const { MeshClient, X3DHKeyManager } = require("@microsoft/agent-governance-sdk");

// eslint-disable-next-line no-console
console.warn = console.log = console.error; // because a client that prints would break the protocol

const url64 = (bytes) => Buffer.from(bytes).toString("base64url");
const events = [];
let wake = () => {};
let client;

function happened(event) {
  events.push(event);
  wake();
}

function newKey() {
  const { publicKey, privateKey } = crypto.generateKeyPairSync("ed25519");
  const { d, x } = privateKey.export({ format: "jwk" });
  return { publicKey, privateKey, seed: Buffer.from(d, "base64url"), raw: Buffer.from(x, "base64url") };
}

function withProof(key) {
  return async (url, init) => {
    if (init.method === "POST" && url.endsWith("/v1/agents")) {
      const at = new Date().toISOString();
      const raw = url64(key.raw);
      const proof = url64(crypto.sign(null, Buffer.from(raw + at), key.privateKey));
      const body = { ...JSON.parse(init.body), public_key: raw, proof, proof_timestamp: at };
      init = { ...init, body: JSON.stringify(body) };
    }
    return fetch(url, init);
  };
}

const requests = {
  async start({ registry, relay, proof }) {
    const key = newKey();
    const did = "did:mesh:" + crypto.createHash("sha256").update(key.raw).digest("hex").slice(0, 32);
    const authSigner = { did, sign: (message) => crypto.sign(null, message, key.privateKey) };
    client = new MeshClient({
      relayUrl: relay.replace(/\/ws$/, ""),
      registryUrl: registry,
      registryClientOptions: proof ? { fetchImpl: withProof(key), authSigner } : {},
      agentDid: did,
      displayName: "npm",
      keyManager: new X3DHKeyManager(key.seed, key.raw),
      wsFactory: (url) => new WebSocket(url),
      autoReconnect: false,
    });
    client.onMessage((sender, payload) => happened({ event: "message", sender, payload }));
    client.onError((kind, peer, detail) => happened({ event: kind, sender: peer, detail }));
    client.onKnock((sender) => happened({ event: "knock", sender }) ?? true);
    await client.connect();
    return { did };
  },
  async send({ to, payloads }) {
    await client.establishSessionWithPeer(to);
    for (const payload of payloads) await client.send(to, payload);
  },
  async take({ count = 0, seconds = 20 }) {
    const end = Date.now() + seconds * 1000;
    while (events.length < count && Date.now() < end) {
      await new Promise((resolve) => {
        wake = resolve;
        setTimeout(resolve, end - Date.now());
      });
    }
    return { events: events.splice(0) };
  },
};

async function main() {
  for await (const line of readline.createInterface({ input: process.stdin })) {
    const request = JSON.parse(line);
    let answer;
    try {
      answer = (await requests[request.do](request)) ?? {};
    } catch (error) {
      answer = { error: String(error) };
    }
    process.stdout.write(JSON.stringify(answer) + "\n");
  }
  process.exit(0);
}

main();
