// IPAEngine.swift: the engine of ipa-mlx in a process of its own, for a macOS app.
//
// Foundation alone. Compiled: no. It was written where there is no Swift compiler; the protocol that
// it speaks is tested on the worker with the transcripts beside it (transcripts/*.jsonl). Expect to
// mend a line or two, and please report which.
//
//     let engine = IPAEngine(executable: pythonURL, arguments: ["-X", "utf8", "-I", "-m", "ipa.engine.stdio"])
//     try await engine.start(scratch: folder)
//     let style = try await engine.put(path: pictureURL)
//     let job = IPAJob(model: "demo", adapters: ["base=demo:base"],
//                      request: ["prompt": "a star", "seed": 7,
//                                "image_prompts": [["image": ["sha256": .string(style)], "scale": 0.7]]])
//     for try await event in engine.generate(job) {
//         switch event {
//         case .progress(let stage, let step, let total, let eta): …
//         case .preview(let webp): …
//         case .result(let files, let info): …
//         }
//     }

import Foundation

/// JSON as a value.
enum JSON: Codable, Sendable, Equatable {
    case null, bool(Bool), number(Double), string(String), array([JSON]), object([String: JSON])

    init(from decoder: Decoder) throws {
        let box = try decoder.singleValueContainer()
        if box.decodeNil() { self = .null }
        else if let value = try? box.decode(Bool.self) { self = .bool(value) }
        else if let value = try? box.decode(Double.self) { self = .number(value) }
        else if let value = try? box.decode(String.self) { self = .string(value) }
        else if let value = try? box.decode([JSON].self) { self = .array(value) }
        else { self = .object(try box.decode([String: JSON].self)) }
    }

    func encode(to encoder: Encoder) throws {
        var box = encoder.singleValueContainer()
        switch self {
        case .null: try box.encodeNil()
        case .bool(let value): try box.encode(value)
        case .number(let value):
            // Whole numbers without a point: a seed is an integer.
            if let whole = Int64(exactly: value) { try box.encode(whole) } else { try box.encode(value) }
        case .string(let value): try box.encode(value)
        case .array(let value): try box.encode(value)
        case .object(let value): try box.encode(value)
        }
    }

    subscript(key: String) -> JSON? {
        if case .object(let members) = self { return members[key] }
        return nil
    }
    var text: String? { if case .string(let value) = self { return value }; return nil }
    var number: Double? { if case .number(let value) = self { return value }; return nil }
    var items: [JSON] { if case .array(let value) = self { return value }; return [] }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByBooleanLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral
{
    init(stringLiteral value: String) { self = .string(value) }
    init(integerLiteral value: Int) { self = .number(Double(value)) }
    init(floatLiteral value: Double) { self = .number(value) }
    init(booleanLiteral value: Bool) { self = .bool(value) }
    init(arrayLiteral elements: JSON...) { self = .array(elements) }
    init(dictionaryLiteral elements: (String, JSON)...) {
        self = .object(Dictionary(elements, uniquingKeysWith: { $1 }))
    }
}

/// What to make: what is needed loaded, and the request.
struct IPAJob: Sendable {
    var model = "demo"
    var adapters: [JSON] = []
    var controlnets: [JSON] = []
    var loras: [JSON] = []
    var request: JSON = [:]
    var preview: String? = "latent"
    var priority = 0

    var params: JSON {
        var members: [String: JSON] = [
            "model": .string(model), "adapters": .array(adapters), "controlnets": .array(controlnets),
            "loras": .array(loras), "request": request, "priority": .number(Double(priority)),
            "deliver": "path",
        ]
        if let preview { members["preview"] = ["kind": .string(preview), "every": 1] }
        return .object(members)
    }
}

enum IPAEvent: Sendable {
    case progress(stage: String, step: Int, total: Int, eta: Double?)
    case preview(webp: Data)
    case result(files: [URL], info: JSON)
}

/// An error as the engine says it: what was wrong, what was found, what to do.
struct IPAFault: Error, Sendable {
    let code: Int
    let message: String
    let data: JSON?
    static let cancelled = -32800
    static let workerLost = -32003
}

/// One worker, started when it is needed and started again when it dies.
actor IPAEngine {
    private let executable: URL
    private let arguments: [String]
    private var scratch: URL?
    private var process: Process?
    private var input: FileHandle?
    private var buffer = Data()
    private var number = 0
    private var answers: [String: CheckedContinuation<JSON, Error>] = [:]
    private var listeners: [String: AsyncThrowingStream<IPAEvent, Error>.Continuation] = [:]
    private var open: [(id: String, job: IPAJob, deaths: Int)] = []
    private var running: Set<String> = []
    private var pictures: [String: URL] = [:]
    private var crashes: [Date] = []
    private var isClosing = false

    init(executable: URL, arguments: [String]) {
        self.executable = executable
        self.arguments = arguments
        signal(SIGPIPE, SIG_IGN)  // writing to a worker that has died is an error, not our end
    }

    func start(scratch: URL) async throws {
        self.scratch = scratch
        try await launch()
    }

    /// Keep a picture; jobs name it by the hash that this returns.
    func put(path: URL) async throws -> String {
        let answer = try await ask("put", ["path": .string(path.path)])
        guard let hash = answer["sha256"]?.text else { throw IPAFault(code: -32603, message: "no hash", data: answer) }
        pictures[hash] = path
        return hash
    }

    /// Make pictures. Ending the loop, or cancelling its task, cancels the job.
    nonisolated func generate(_ job: IPAJob) -> AsyncThrowingStream<IPAEvent, Error> {
        AsyncThrowingStream { continuation in
            let id = UUID().uuidString
            continuation.onTermination = { reason in
                if case .cancelled = reason { Task { await self.cancel(id) } }
            }
            Task { await self.submit(id, job, continuation) }
        }
    }

    func shutdown() async {
        isClosing = true
        _ = try? await ask("shutdown", [:])
        try? input?.close()
    }

    // MARK: the job's life

    private func submit(
        _ id: String, _ job: IPAJob, _ continuation: AsyncThrowingStream<IPAEvent, Error>.Continuation
    ) {
        listeners[id] = continuation
        open.append((id, job, 0))
        send(["jsonrpc": "2.0", "id": .string(id), "method": "generate", "params": job.params])
    }

    private func cancel(_ id: String) {
        number += 1
        send(["jsonrpc": "2.0", "id": .string("c\(number)"), "method": "cancel", "params": ["id": .string(id)]])
    }

    private func finish(_ id: String, _ outcome: Result<JSON, Error>) {
        open.removeAll { $0.id == id }
        running.remove(id)
        guard let listener = listeners.removeValue(forKey: id) else { return }
        switch outcome {
        case .failure(let error): listener.finish(throwing: error)
        case .success(let answer):
            let files = (answer["images"]?.items ?? []).compactMap { $0["path"]?.text }.map(URL.init(fileURLWithPath:))
            listener.yield(.result(files: files, info: answer["info"] ?? .null))
            listener.finish()
        }
    }

    // MARK: the worker's life

    private func launch() async throws {
        let child = Process(), toChild = Pipe(), fromChild = Pipe(), errors = Pipe()
        child.executableURL = executable
        child.arguments = arguments
        child.standardInput = toChild
        child.standardOutput = fromChild
        child.standardError = errors
        // Lines are cut here, at 0x0A alone: AsyncLineSequence also ends them at U+2028.
        fromChild.fileHandleForReading.readabilityHandler = { handle in
            let data = handle.availableData
            Task { await self.take(data) }
        }
        errors.fileHandleForReading.readabilityHandler = { _ = $0.availableData }  // or its pipe fills
        child.terminationHandler = { ended in Task { await self.ended(ended) } }
        buffer.removeAll()
        try child.run()
        process = child
        input = toChild.fileHandleForWriting
        let folder = scratch?.path ?? NSTemporaryDirectory()
        _ = try await ask("initialize", ["protocol": 1, "scratch": .string(folder)])
    }

    private func ended(_ child: Process) async {
        guard child === process else { return }
        process = nil
        input = nil
        let fault = IPAFault(code: IPAFault.workerLost, message: "the worker ended", data: nil)
        for continuation in answers.values { continuation.resume(throwing: fault) }
        answers.removeAll()
        if isClosing { return }
        crashes = crashes.filter { $0.timeIntervalSinceNow > -180 } + [Date()]
        for place in open.indices where running.contains(open[place].id) { open[place].deaths += 1 }
        running.removeAll()
        // A job that two workers died of is given up; five deaths in three minutes end it all.
        let isHopeless = crashes.count >= 5
        for task in open where task.deaths >= 2 || isHopeless { finish(task.id, .failure(fault)) }
        if isHopeless { return }
        let pause = [0.0, 1.0, 4.0][min(crashes.count - 1, 2)]
        try? await Task.sleep(nanoseconds: UInt64(pause * 1e9))
        do {
            try await launch()
            for path in pictures.values { _ = try await ask("put", ["path": .string(path.path)]) }
            for task in open {  // the same seed makes the same picture
                send(["jsonrpc": "2.0", "id": .string(task.id), "method": "generate", "params": task.job.params])
            }
        } catch {
            for task in open { finish(task.id, .failure(error)) }
        }
    }

    // MARK: messages

    private func ask(_ method: String, _ params: JSON) async throws -> JSON {
        number += 1
        let id = "r\(number)"
        return try await withCheckedThrowingContinuation { continuation in
            answers[id] = continuation
            send(["jsonrpc": "2.0", "id": .string(id), "method": .string(method), "params": params])
        }
    }

    private func send(_ message: JSON) {
        guard let input, var line = try? JSONEncoder().encode(message) else { return }
        line.append(0x0A)
        try? input.write(contentsOf: line)
    }

    private func take(_ data: Data) {
        buffer.append(data)
        while let end = buffer.firstIndex(of: 0x0A) {
            let line = buffer[buffer.startIndex..<end]
            if let message = try? JSONDecoder().decode(JSON.self, from: line) { hear(message) }
            buffer.removeSubrange(buffer.startIndex...end)
        }
    }

    private func hear(_ message: JSON) {
        if let method = message["method"]?.text {
            notice(method, message["params"] ?? .null)
            return
        }
        guard let id = message["id"]?.text else { return }
        let outcome: Result<JSON, Error>
        if let fault = message["error"] {
            outcome = .failure(IPAFault(
                code: Int(fault["code"]?.number ?? 0), message: fault["message"]?.text ?? "", data: fault["data"]))
        } else {
            outcome = .success(message["result"] ?? .null)
        }
        if let waiting = answers.removeValue(forKey: id) { waiting.resume(with: outcome) } else { finish(id, outcome) }
    }

    private func notice(_ method: String, _ params: JSON) {
        guard let id = params["id"]?.text, let listener = listeners[id] else { return }
        running.insert(id)
        switch method {
        case "job/progress":
            listener.yield(.progress(
                stage: params["stage"]?.text ?? "", step: Int(params["step"]?.number ?? 0),
                total: Int(params["total"]?.number ?? 0), eta: params["eta_s"]?.number))
        case "job/preview":
            if let text = params["image"]?["data"]?.text, let webp = Data(base64Encoded: text) {
                listener.yield(.preview(webp: webp))
            }
        default: break
        }
    }
}
