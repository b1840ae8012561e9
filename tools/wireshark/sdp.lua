-- SPDX-License-Identifier: GPL-2.0
--
-- Dissects the Sockets Direct Protocol over RDMA, as Documentation/wire.rst describes it, for
-- Wireshark and tshark 4.4 or newer:
--
--	tshark -X lua_script:tools/wireshark/sdp.lua -r FILE -O sdp_rdma
--	tshark -X lua_script:tools/wireshark/sdp.lua -r FILE -Y "sdp_rdma && _ws.expert"
--	tshark -X lua_script:tools/wireshark/sdp.lua -X lua_script1:summary -r FILE -q
--
-- The last prints what each end of each connection sent. Not as root, for whom tshark loads no
-- scripts. In a directory of Lua plugins, such as ~/.local/lib/wireshark/plugins, it is loaded by
-- itself.
--
-- It shows the messages, Hello and HelloAck among them, over InfiniBand and RoCE as over iWARP;
-- which bytes of its stream each one moves; the credit that is left; which SrcAvail or SinkAvail
-- an RDMA Read, an RDMA Write or an answer belongs to; and what violates the protocol, as far as
-- an onlooker can tell. The names of its fields begin with `sdp_rdma`.
--
-- A capture has to have both directions, in the order in which they passed, from the connection's
-- set-up on, for only that tells that a connection speaks SDP. On RoCE packets may be cut to 256
-- bytes. Comments cite the rules and tables of wire.rst by their numbers.

local wants_summary = ... == "summary"

local sdp = Proto("sdp_rdma", "Sockets Direct Protocol")

-- Message identifiers (A.2): the bytes of the extended header, and whether payload may follow.
local HELLO, HELLO_ACK, DISCONN, ABORT_CONN, SEND_SM = 0x00, 0x01, 0x02, 0x03, 0x04
local RDMA_WR_COMPL, RDMA_RD_COMPL, MODE_CHANGE = 0x05, 0x06, 0x07
local SRC_AVAIL_CANCEL, SINK_AVAIL_CANCEL, SINK_CANCEL_ACK = 0x08, 0x09, 0x0a
local CH_RCV_BUF, CH_RCV_BUF_ACK, SUSP_COMM, SUSP_COMM_ACK = 0x0b, 0x0c, 0x0d, 0x0e
local SINK_AVAIL, SRC_AVAIL, DATA = 0xfd, 0xfe, 0xff
local MESSAGES = {
	[HELLO] = { "Hello", 0 },
	[HELLO_ACK] = { "HelloAck", 0 },
	[DISCONN] = { "DisConn", 0 },
	[ABORT_CONN] = { "AbortConn", 0 },
	[SEND_SM] = { "SendSm", 0 },
	[RDMA_WR_COMPL] = { "RdmaWrCompl", 4 },
	[RDMA_RD_COMPL] = { "RdmaRdCompl", 4 },
	[MODE_CHANGE] = { "ModeChange", 4 },
	[SRC_AVAIL_CANCEL] = { "SrcAvailCancel", 0 },
	[SINK_AVAIL_CANCEL] = { "SinkAvailCancel", 0 },
	[SINK_CANCEL_ACK] = { "SinkCancelAck", 0 },
	[CH_RCV_BUF] = { "ChRcvBuf", 4 },
	[CH_RCV_BUF_ACK] = { "ChRcvBufAck", 4 },
	[SUSP_COMM] = { "SuspComm", 8 },
	[SUSP_COMM_ACK] = { "SuspCommAck", 0 },
	[SINK_AVAIL] = { "SinkAvail", 20, payload = true },
	[SRC_AVAIL] = { "SrcAvail", 16, payload = true },
	[DATA] = { "Data", 0, payload = true },
}
local BASE = 16
local OOB_PRES = 0x01
local BUFFERED, COMBINED, PIPELINED = 0, 1, 2
local SIZE_MAX = 1 << 31
local BUFFER_MIN = 37

local message_names = {}
for mid, message in pairs(MESSAGES) do
	message_names[mid] = message[1]
end
local mode_names = { [BUFFERED] = "Buffered", [COMBINED] = "Combined", [PIPELINED] = "Pipelined" }
local half_names = { [0] = "receive half of who gets this", "send half of who gets this" }
local end_names = { "connecting", "accepting" }
local READ_REQUEST, READ_RESPONSE, WRITE = 1, 2, 3
local rdma_names = { "Read request", "Read response", "Write" }

-- Fields

local f = {}
local function field(kind, name, ...)
	f[name] = ProtoField[kind]("sdp_rdma." .. name, ...)
end
field("uint32", "connection", "Connection")
field("uint8", "from", "From", base.DEC, end_names)
field("uint8", "mid", "MID", base.HEX, message_names)
field("uint8", "flags", "Flags", base.HEX)
field("bool", "oob_pres", "OOB_PRES", 8, nil, 0x01)
field("bool", "oob_pend", "OOB_PEND", 8, nil, 0x02)
field("bool", "req_pipe", "REQ_PIPE", 8, nil, 0x04)
field("uint16", "bufs", "Bufs")
field("uint32", "len", "Len")
field("uint32", "mseq", "MSeq")
field("uint32", "mseq_ack", "MSeqAck")
field("uint8", "version.major", "Major version", base.DEC, nil, 0xf0)
field("uint8", "version.minor", "Minor version", base.DEC, nil, 0x0f)
field("uint8", "ip_version", "IP version", base.DEC, nil, 0xf0)
field("uint8", "capabilities", "Capabilities", base.HEX, nil, 0x0f)
field("uint16", "max_adverts", "MaxAdverts")
field("uint32", "des_rem_rcv_sz", "DesRemRcvSz")
field("uint32", "local_rcv_sz", "LocalRcvSz")
field("uint32", "act_rcv_sz", "ActRcvSz")
field("uint16", "loc_ord", "LocORD")
field("uint16", "loc_ird", "LocIRD")
field("uint16", "port", "TCP port")
field("ipv6", "source", "Address of the connecting end")
field("ipv6", "destination", "Address of the accepting end")
field("uint32", "advert.len", "Len of the memory")
field("uint32", "advert.rkey", "RKey", base.HEX)
field("uint64", "advert.va", "VA", base.HEX)
field("uint32", "advert.non_discards", "NonDiscards")
field("uint32", "compl.len", "Len written or read")
field("uint8", "half", "S", base.DEC, half_names, 0x80)
field("uint8", "mode", "Mode", base.DEC, mode_names, 0x70)
field("uint32", "size", "Size of receive buffers")
field("uint64", "service_id", "Service identifier", base.HEX)
field("bytes", "payload", "Payload")
field("uint32", "payload_len", "Bytes of payload")
field("uint64", "offset", "Offset in the sender's stream")
field("int32", "credit", "Credit left")
field("bool", "stale", "SinkAvail that payload under way uses up")
field("framenum", "answers", "About the SrcAvail or SinkAvail in")
field("framenum", "begins", "Message that begins in")
field("uint8", "rdma", "RDMA", base.DEC, rdma_names)
field("uint32", "rdma.bytes", "Bytes of RDMA")
field("bool", "probe", "Probe of an idle connection")
field("bool", "again", "Retransmission")
field("bool", "early", "Behind a lost packet, to be sent again")
field("string", "reject", "Reason of the rejection")
sdp.fields = f

-- Complaints; what is added to the text says more.

local complaints, experts = {}, {}
local function complaint(name, text, group, severity)
	group, severity = group or expert.group.PROTOCOL, severity or expert.severity.ERROR
	local new = ProtoExpert.new("sdp_rdma.expert." .. name, text, group, severity)
	complaints[name] = { expert = new, text = text }
	experts[name] = new
end
complaint("short", "Shorter than its header (A.1)")
complaint("len", "Len is not the number of bytes sent (A.1)")
complaint("mid", "Unknown message identifier (A.2)")
complaint("payload", "Payload on a message that has none (A.2)")
complaint("hello", "Hello or HelloAck with a wrong field (B-3 to B-6)")
complaint("size", "Larger than the receiver's buffers (B-4)")
complaint("first", "The accepting end talks first on iWARP (B-9a)")
complaint("mseq", "MSeq is not the next number (B-12)", expert.group.SEQUENCE)
complaint("ack", "MSeqAck goes back, or acknowledges what was not sent (B-12)",
	expert.group.SEQUENCE)
complaint("taken", "Bufs takes credit back (B-13)")
complaint("credit", "Sent beyond the credit (B-14 to B-17)")
complaint("reads", "More RDMA Reads in flight than the peer serves (B-4a)")
complaint("src_avail", "SrcAvail that may not be (B-26 to B-30, B-39)")
complaint("behind", "Payload behind an open SrcAvail (B-25, B-29)")
complaint("answer", "Answer to no SrcAvail, or of the wrong length (B-32, B-33)")
complaint("cancel", "MSeqAck of a cancel that is still worked on (B-41)", expert.group.PROTOCOL,
	expert.severity.WARN)
complaint("sink_avail", "SinkAvail that may not be, or answer to none (B-46 to B-49, B-53)")
complaint("mode", "ModeChange that may not be (B-55 to B-59a)")
complaint("resize", "ChRcvBuf or ChRcvBufAck that may not be (B-63)")
complaint("close", "Behind DisConn, or AbortConn without (B-68, B-71)")
complaint("urgent", "OOB_PRES without a byte of Data (B-78)")
complaint("suspend", "SuspComm or SuspCommAck that may not be (B-83)")
complaint("memory", "RDMA to memory that is not advertised (B-85)")
complaint("dropped", "The connection ended without the DisConns of both ends (B-72)",
	expert.group.SEQUENCE, expert.severity.NOTE)
complaint("missing", "Packets before this one are missing in the capture",
	expert.group.SEQUENCE, expert.severity.WARN)
sdp.experts = experts

-- What is known of connections. `facts` keeps what was found in each frame, for Wireshark shows
-- frames again, in any order.

local connections, by_qp, by_request, by_stream, facts

function sdp.init()
	connections, by_qp, by_request, by_stream, facts = {}, {}, {}, {}, {}
end

-- An end of a connection: its side, and its send half.
local function new_end(number)
	return {
		number = number,
		-- MSeq of the last message, and the greatest MSeqAck.
		sent = 0, ack = 0,
		-- The number up to which the peer may send, and the size up to which (B-4, B-14).
		limit = nil, size = nil, shrink = nil,
		-- SrcAvails and SinkAvails that it takes, RDMA Reads that it makes and serves.
		max_adverts = nil, ord = nil, ird = nil,
		-- The send half: bytes that were moved, and how they are moved.
		offset = 0, mode = COMBINED,
		-- Its SrcAvails that are open, and SinkAvails that it may write to, oldest first.
		src = {}, sink = {},
		-- Bytes that SendSms asked for, and the number of the last.
		rest = 0, asked = nil,
		-- Messages with payload that used up no SinkAvail (B-49): now, and when it left
		-- Pipelined mode.
		payloads = 0, left = 0, left_mseq = nil,
		-- Its RDMA Reads that are not complete.
		reads = {},
		-- The message and the write of which more packets follow.
		message = nil, write = nil,
		-- The number of its next packet that asks (RoCE), TCP's of its next byte (iWARP).
		psn = nil, tcp = nil,
	}
end

local function new_connection(pinfo)
	local a, b = new_end(1), new_end(2)
	a.peer, b.peer = b, a
	local connection = { number = #connections + 1, ends = { a, b } }
	a.connection, b.connection = connection, connection
	a.address, b.address = tostring(pinfo.net_src), tostring(pinfo.net_dst)
	connections[connection.number] = connection
	return connection
end

-- The distance from `b` to `a`, which are sequence numbers of so many bits.
local function distance(a, b, bits)
	local half = 1 << (bits - 1)
	return ((a - b + half) & ((1 << bits) - 1)) - half
end

local function ahead(a, b)
	return distance(a, b, 32)
end

-- Notes complaint `name` about what `fact` stands for.
local function complain(fact, name, text, ...)
	fact.complaints = fact.complaints or {}
	table.insert(fact.complaints, { name, string.format(text, ...) })
end

-- Bytes of `tvb` from `at` in the format of string.unpack(); nothing where the capture was cut.
local function read(tvb, at, format)
	local size = string.packsize(format)
	if at >= 0 and at + size <= tvb:len() then
		return string.unpack(format, tvb:raw(at, size))
	end
end

-- Reads the message at `at`, of which this packet has `size` bytes.
local function parse(tvb, at, size)
	local m = { tvb = tvb, at = at, size = size }
	if size < BASE or at + BASE > tvb:len() then
		return m
	end
	m.mid, m.flags, m.bufs, m.len, m.mseq, m.mseq_ack = read(tvb, at, ">BBI2I4I4I4")
	local known = MESSAGES[m.mid]
	m.header = BASE + (known and known[2] or 0)
	if m.mid == HELLO then
		m.ib, m.header = m.len == 92, m.len == 92 and 92 or 32
	elseif m.mid == HELLO_ACK then
		m.ib, m.header = m.len == 196, m.len == 196 and 196 or 28
	end
	m.payload = math.max(m.len - m.header, 0)
	if size < m.header or at + m.header > tvb:len() then
		m.cut = true
		return m
	end
	local rest = at + BASE
	if m.mid == HELLO and m.ib then
		m.version, m.max_adverts, m.recv_size = read(tvb, rest, ">BxxBxxxxI4")
	elseif m.mid == HELLO then
		m.version, m.max_adverts, m.recv_size, m.ord, m.ird =
			read(tvb, rest, ">BxI2xxxxI4I2I2")
	elseif m.mid == HELLO_ACK and m.ib then
		m.version, m.max_adverts, m.recv_size = read(tvb, rest, ">BxxBI4")
	elseif m.mid == HELLO_ACK then
		m.version, m.max_adverts, m.recv_size, m.ord, m.ird = read(tvb, rest, ">BxI2I4I2I2")
	elseif m.mid == SRC_AVAIL then
		m.advert_len, m.rkey, m.va = read(tvb, rest, ">I4I4i8")
	elseif m.mid == SINK_AVAIL then
		m.advert_len, m.rkey, m.va, m.non_discards = read(tvb, rest, ">I4I4i8I4")
	elseif m.mid == RDMA_WR_COMPL or m.mid == RDMA_RD_COMPL then
		m.compl_len = read(tvb, rest, ">I4")
	elseif m.mid == MODE_CHANGE then
		local byte = read(tvb, rest, ">B")
		m.half, m.mode = byte >> 7, byte >> 4 & 7
	elseif m.mid == CH_RCV_BUF or m.mid == CH_RCV_BUF_ACK then
		m.new_size = read(tvb, rest, ">I4")
	elseif m.mid == SUSP_COMM then
		m.service_id = read(tvb, rest, ">i8")
	end
	return m
end

-- A Hello starts the private data, if there it is: its Len or its version says so.
local function is_hello(m)
	local major = m.version and m.version >> 4
	return m.mid == HELLO and m.flags == 0 and m.mseq == 0 and m.mseq_ack == 0
		and (m.len == 32 or m.len == 92 or major == 1 or major == 2)
end

-- What Hello or HelloAck `m` of `from` says (A.3 to A.5).
local function greet(from, m, fact)
	fact.connection, fact.from = from.connection.number, from.number
	fact.mid = m.mid
	if not m.version then
		complain(fact, "short", "%d bytes", m.size)
		return
	end
	if m.len ~= m.header then
		complain(fact, "len", "%d, not %d", m.len, m.header)
	end
	if m.bufs < 3 then
		complain(fact, "hello", "B-3: %d receive buffers", m.bufs)
	end
	if m.recv_size < BUFFER_MIN or m.recv_size > SIZE_MAX then
		complain(fact, "hello", "B-4: receive buffers of %d bytes", m.recv_size)
	end
	if m.max_adverts == 0 or m.ord == 0 or m.ird == 0 then
		complain(fact, "hello", "B-5: MaxAdverts, LocORD or LocIRD is 0")
	end
	local major = m.version >> 4
	if major ~= 1 and not (m.ib and major == 2) then
		complain(fact, "hello", "B-5: version %d", major)
	elseif m.mid == HELLO_ACK and major ~= from.connection.major then
		complain(fact, "hello", "B-6: version %d answers %s", major, from.connection.major)
	end
	from.connection.major = major
	from.limit, from.size, from.max_adverts = m.bufs, m.recv_size, m.max_adverts
	from.ord, from.ird = m.ord, m.ird
end

-- Sequence numbers and credit of message `m` (B-12 to B-18).
local function count(from, m, fact)
	local to = from.peer
	if m.mseq ~= (from.sent + 1) & 0xffffffff then
		complain(fact, "mseq", "%d after %d", m.mseq, from.sent)
	end
	from.sent = m.mseq
	if ahead(m.mseq_ack, to.sent) > 0 then
		complain(fact, "ack", "%d, but the last message was %d", m.mseq_ack, to.sent)
	elseif ahead(m.mseq_ack, from.ack) < 0 then
		complain(fact, "ack", "%d after %d", m.mseq_ack, from.ack)
	else
		from.ack = m.mseq_ack
	end

	local limit = (m.mseq_ack + m.bufs) & 0xffffffff
	local gain = from.limit and ahead(limit, from.limit) or 0
	if gain < 0 then
		complain(fact, "taken", "messages up to %d, but up to %d before", limit, from.limit)
	else
		from.limit = limit
	end
	if to.limit then
		fact.credit = ahead(to.limit, m.mseq)
		local before = fact.credit + 1
		if before < 1 then
			complain(fact, "credit", "B-15: message %d, of %d", m.mseq, to.limit)
		elseif before == 1 and (m.payload > 0 or gain == 0) then
			complain(fact, "credit", "B-16: payload, or no news, on the last one")
		elseif before == 2 and m.payload > 0 then
			complain(fact, "credit", "B-17: payload on the last but one")
		end
	end

	-- Smaller buffers are in use when the peer knows of them; larger ones at once.
	if to.shrink and ahead(m.mseq_ack, to.shrink.mseq) >= 0 then
		to.size, to.shrink = to.shrink.size, nil
	end
	if to.size and m.len > to.size then
		complain(fact, "size", "%d bytes for buffers of %d", m.len, to.size)
	end
end

-- No payload behind an open SrcAvail, but what a SendSm asked for (B-25).
local function check_behind(from, m, fact)
	if from.src[1] and m.payload > from.rest then
		complain(fact, "behind", "SrcAvail in frame %d", from.src[1].frame)
	end
	from.rest = math.max(from.rest - m.payload, 0)
end

-- A message with payload of `from`: it uses up a SinkAvail, or counts (B-48, B-49).
local function move_payload(from, m, fact)
	fact.offset = from.offset
	from.offset = from.offset + m.payload
	if from.sink[1] then
		fact.answers = table.remove(from.sink, 1).frame
	else
		from.payloads = (from.payloads + 1) & 0xffffffff
	end
end

-- The last byte of memory has an address too (B-28).
local function check_region(m, fact, name)
	if m.advert_len == 0 or m.advert_len > SIZE_MAX
		or m.va < 0 and m.va + m.advert_len - 1 >= 0 then
		complain(fact, name, "B-28: %d bytes", m.advert_len)
	end
end

-- `from` has no more SrcAvails and SinkAvails open than the peer takes, and sends another (B-30).
local function check_adverts(from, fact, name)
	local open, most = #from.src + #from.peer.sink, from.peer.max_adverts
	if most and open >= most then
		complain(fact, name, "B-30: %d are open, of %d", open, most)
	end
end

local function new_advert(m, offset, frame)
	return {
		frame = frame, mseq = m.mseq, offset = offset,
		len = m.advert_len, rkey = m.rkey, va = m.va,
		-- Of a SrcAvail: bytes not reported, and of those the bytes that were read.
		left = m.advert_len - m.payload, read = 0,
		-- Of a SinkAvail: bytes that were written.
		written = 0,
	}
end

-- Messages: what each means for the two halves. `from` sends it.

local take = {}

take[HELLO] = function(_, _, fact)
	complain(fact, "mid", "Hello or HelloAck in the middle of a connection")
end
take[HELLO_ACK] = take[HELLO]

take[DATA] = check_behind

take[SRC_AVAIL] = function(from, m, fact)
	check_region(m, fact, "src_avail")
	if m.payload > m.advert_len then
		complain(fact, "src_avail", "B-26: payload of %d of %d", m.payload, m.advert_len)
	end
	if from.mode == BUFFERED then
		complain(fact, "src_avail", "B-27: in Buffered mode")
	elseif from.mode == COMBINED and m.payload == 0 then
		complain(fact, "src_avail", "B-27: without payload in Combined mode")
	elseif from.mode == COMBINED and from.src[1] then
		complain(fact, "src_avail", "B-29: the one in frame %d is open", from.src[1].frame)
	elseif from.mode == PIPELINED and m.payload > 0 then
		complain(fact, "src_avail", "B-27: with payload in Pipelined mode")
	end
	check_adverts(from, fact, "src_avail")
	if from.cancel and from.src[1] then
		complain(fact, "src_avail", "B-39: a cancel is under way")
	end
	-- A SinkAvail that is on its way beats it (B-50).
	if from.sink[1] and m.payload == 0 then
		fact.answers = from.sink[1].frame
		return
	end
	-- Had it wanted to send what it was asked for, it would have done so first.
	if not from.src[1] and (not from.asked or ahead(m.mseq_ack, from.asked) >= 0) then
		from.rest = 0
	end
	local offset = from.offset
	for _, open in ipairs(from.src) do
		offset = offset + open.left
	end
	fact.offset = offset
	fact.keep = new_advert(m, offset, fact.frame)
end

-- The oldest SrcAvail of `source` is done with, or all of them.
local function close_src(source, all)
	repeat
		table.remove(source.src, 1)
	until not all or not source.src[1]
	if not source.src[1] then
		source.cancel = nil
	end
end

take[RDMA_RD_COMPL] = function(from, m, fact)
	local source = from.peer
	local open = source.src[1]
	if not open then
		complain(fact, "answer", "B-32: without a SrcAvail")
		return
	end
	fact.answers, fact.offset = open.frame, source.offset
	if m.compl_len > open.left then
		complain(fact, "answer", "B-32: %d bytes, but %d are left", m.compl_len, open.left)
	elseif m.compl_len > open.read then
		complain(fact, "answer", "B-32: %d bytes, but %d were read", m.compl_len, open.read)
	end
	source.offset = source.offset + m.compl_len
	open.left, open.read = open.left - m.compl_len, open.read - m.compl_len
	if open.left <= 0 then
		close_src(source)
	end
end

take[SEND_SM] = function(from, m, fact)
	local source = from.peer
	if not source.src[1] then
		complain(fact, "answer", "B-33: without a SrcAvail")
		return
	end
	fact.answers, fact.offset = source.src[1].frame, source.offset
	-- One for each, or one for all that are cancelled (B-40, B-42).
	local all = source.cancel and ahead(m.mseq_ack, source.cancel) >= 0
	source.rest, source.asked = source.rest + source.src[1].left, m.mseq
	close_src(source, all)
end

take[SRC_AVAIL_CANCEL] = function(from, m, fact)
	if from.src[1] then
		from.cancel, fact.answers = m.mseq, from.src[1].frame
	end
end

take[SINK_AVAIL] = function(from, m, fact)
	local source = from.peer
	check_behind(from, m, fact)
	check_region(m, fact, "sink_avail")
	if source.mode ~= PIPELINED then
		if not source.left_mseq or ahead(m.mseq_ack, source.left_mseq) >= 0 then
			complain(fact, "sink_avail", "B-46: not in Pipelined mode")
		elseif m.non_discards ~= source.left then
			source.left = (source.left - 1) & 0xffffffff
			source.payloads = (source.payloads - 1) & 0xffffffff
		end
		fact.stale = true
		return
	end
	fact.stale = m.non_discards ~= source.payloads
	if fact.stale then
		if ahead(m.non_discards, source.payloads) > 0 then
			complain(fact, "sink_avail", "B-49: NonDiscards is %d, but %d were sent",
				m.non_discards, source.payloads)
		end
		source.payloads = (source.payloads - 1) & 0xffffffff
		return
	end
	check_adverts(from, fact, "sink_avail")
	-- SrcAvails that cross it are forgotten (B-50).
	source.src, source.cancel = {}, nil
	table.insert(source.sink, new_advert(m, nil, fact.frame))
end

take[RDMA_WR_COMPL] = function(from, m, fact)
	local open = table.remove(from.sink, 1)
	if not open then
		complain(fact, "sink_avail", "B-47: RdmaWrCompl without a SinkAvail")
		return
	end
	fact.answers, fact.offset = open.frame, from.offset
	if m.compl_len == 0 or m.compl_len > open.len then
		complain(fact, "sink_avail", "B-47: %d bytes of %d", m.compl_len, open.len)
	elseif m.compl_len > open.written then
		complain(fact, "sink_avail", "B-47: %d bytes, but %d were written",
			m.compl_len, open.written)
	end
	from.offset = from.offset + m.compl_len
end

take[SINK_AVAIL_CANCEL] = function(from, _, fact)
	from.sink_cancel = true
	fact.answers = from.peer.sink[1] and from.peer.sink[1].frame
end

take[SINK_CANCEL_ACK] = function(from, _, fact)
	if not from.peer.sink_cancel or not from.sink[1] then
		complain(fact, "sink_avail", "B-53: SinkCancelAck with nothing to cancel")
	end
	from.peer.sink_cancel, from.sink = nil, {}
end

take[MODE_CHANGE] = function(from, m, fact)
	-- S = 0: the send half of the one who says it (A.6).
	local source = m.half == 0 and from or from.peer
	local allowed
	if m.half == 1 then
		allowed = source.mode == BUFFERED and m.mode == COMBINED
	elseif source.mode == COMBINED then
		local least = math.min(source.max_adverts or 2, source.peer.max_adverts or 2)
		local pipelined = m.mode == PIPELINED and least > 1 and source.connection.major ~= 2
		allowed = pipelined or m.mode == BUFFERED and not source.src[1]
	else
		allowed = source.mode == PIPELINED and m.mode == COMBINED
	end
	if not allowed then
		complain(fact, "mode", "S = %d, from %s to %s", m.half, mode_names[source.mode],
			mode_names[m.mode] or m.mode)
	end
	if source.mode == PIPELINED then
		source.sink, source.left, source.left_mseq = {}, source.payloads, m.mseq
	end
	source.mode = m.mode
end

take[CH_RCV_BUF] = function(from, _, fact)
	if from.resize then
		complain(fact, "resize", "another one was not answered")
	end
	from.resize = true
	-- When both ask, the accepting end's request stands (B-66).
	local connecting, accepting = table.unpack(from.connection.ends)
	if accepting.resize then
		connecting.resize = nil
	end
end

take[CH_RCV_BUF_ACK] = function(from, m, fact)
	if not from.peer.resize then
		complain(fact, "resize", "ChRcvBufAck without a ChRcvBuf")
	end
	from.peer.resize = nil
	if from.size and m.new_size < from.size then
		from.shrink = { size = m.new_size, mseq = m.mseq }
	else
		from.size, from.shrink = m.new_size, nil
	end
end

take[DISCONN] = function(from, _, fact)
	if from.disconn then
		complain(fact, "close", "B-68: second DisConn")
	elseif from.src[1] then
		complain(fact, "close", "B-68: the SrcAvail in frame %d is open", from.src[1].frame)
	end
	from.disconn, from.sink = true, {}
end

take[ABORT_CONN] = function(from, _, fact)
	if not from.disconn then
		complain(fact, "close", "B-71: AbortConn without a DisConn")
	end
	from.aborted = true
end

take[SUSP_COMM] = function(from, m, fact)
	if m.service_id >> 16 ~= 1 or m.service_id & 0xffff == 0 then
		complain(fact, "suspend", "service identifier %#x", m.service_id)
	end
	from.suspend = true
end

take[SUSP_COMM_ACK] = function(from, _, fact)
	if not from.peer.suspend then
		complain(fact, "suspend", "SuspCommAck without a SuspComm")
	end
end

-- Message `m` of `from` begins.
local function begin_message(from, m, fact)
	fact.message = true
	if not m.mid or m.cut then
		complain(fact, "short", "%d bytes", m.size)
		return
	end
	fact.mid, fact.payload, fact.compl_len = m.mid, m.payload, m.compl_len
	count(from, m, fact)
	if not take[m.mid] then
		complain(fact, "mid", "%#04x", m.mid)
		return
	end
	if from.connection.iwarp and from.number == 2 and not from.peer.spoke then
		complain(fact, "first", "MSeq %d", m.mseq)
	end
	from.spoke = true
	if m.payload > 0 and not MESSAGES[m.mid].payload then
		complain(fact, "payload", "%d bytes", m.payload)
	end
	if m.flags & OOB_PRES ~= 0 and (m.mid ~= DATA or m.payload == 0) then
		complain(fact, "urgent", "")
	end
	if from.disconn and (m.payload > 0 or m.mid == SRC_AVAIL or m.mid == RDMA_WR_COMPL) then
		complain(fact, "close", "B-68: payload")
	end
	take[m.mid](from, m, fact)
	if m.payload > 0 and MESSAGES[m.mid].payload then
		move_payload(from, m, fact)
	end
	if fact.keep then
		table.insert(from.src, fact.keep)
		fact.keep = nil
	end
	local source = from.peer
	if source.cancel and ahead(m.mseq_ack, source.cancel) >= 0 then
		complain(fact, "cancel", "MSeqAck %d, of the cancel or later", m.mseq_ack)
	end
end

-- A part of a Send of `from`, of `size` bytes.
local function part_of_send(from, first, last, m, fact)
	if first then
		from.message = { frame = fact.frame, len = m.len, bytes = 0 }
		begin_message(from, m, fact)
	elseif not from.message then
		complain(fact, "missing", "the beginning of a message")
		return
	end
	local message = from.message
	message.bytes = message.bytes + m.size
	fact.begins = not first and message.frame or nil
	if last then
		if message.len and message.len ~= message.bytes then
			complain(fact, "len", "%d, but %d were sent", message.len, message.bytes)
		end
		from.message = nil
	end
end

-- The advertisement among `adverts` that has these bytes.
local function find_advert(adverts, rkey, va, len)
	for _, advert in ipairs(adverts) do
		local from = va - advert.va
		if advert.rkey == rkey and from >= 0 and from + len <= advert.len then
			return advert, from
		end
	end
end

-- `from` asks for an RDMA Read of `len` bytes.
local function begin_read(from, rkey, va, len, fact)
	fact.rdma, fact.bytes = READ_REQUEST, len
	local open, at = find_advert(from.peer.src, rkey, va, len)
	if open then
		fact.answers, fact.offset = open.frame, open.offset + at
	elseif len == 0 then
		fact.probe = true
	else
		complain(fact, "memory", "Read of %d bytes at %#x", len, va)
	end
	local new = { advert = open, len = len, left = len }
	table.insert(from.reads, new)
	local most = math.min(from.ord or #from.reads, from.peer.ird or #from.reads)
	if #from.reads > most then
		complain(fact, "reads", "%d, of %d", #from.reads, most)
	end
	return new
end

-- `size` bytes of RDMA Read `open` of `from` come.
local function go_on_reading(open, size, fact)
	fact.rdma, fact.bytes = READ_RESPONSE, size
	if open.advert then
		fact.answers = open.advert.frame
		open.advert.read = open.advert.read + size
	elseif open.len == 0 then
		fact.probe = true
	end
	open.left = open.left - size
end

-- `from` writes `size` bytes; `advert` is where, if it is known.
local function go_on_writing(advert, size, fact)
	fact.rdma, fact.bytes = WRITE, size
	if advert then
		fact.answers = advert.frame
		advert.written = advert.written + size
	elseif size == 0 then
		fact.probe = true
	end
end

-- The connection of `from` goes.
local function drop(from, fact)
	local a, b = table.unpack(from.connection.ends)
	if not (a.disconn and b.disconn) or a.aborted or b.aborted then
		complain(fact, "dropped", "")
	end
end

-- Shows what was found of one message, or of one part of an RDMA operation: `m` is a message or
-- the bytes of this packet.

-- The bytes from `at`, as far as they were captured.
local function range(tvb, at, size)
	size = math.min(size, tvb:len() - at)
	if size > 0 then
		return tvb(at, size)
	end
end

-- Names, places in the message, and sizes of the fields of extended headers (A.3 to A.6).
local ADVERT = { { "advert.len", 16, 4 }, { "advert.rkey", 20, 4 }, { "advert.va", 24, 8 } }
local VERSION = { { "version.major", 16, 1 }, { "version.minor", 16, 1 } }
local LAYOUTS = {
	[SRC_AVAIL] = { ADVERT },
	[SINK_AVAIL] = { ADVERT, { { "advert.non_discards", 32, 4 } } },
	[RDMA_WR_COMPL] = { { { "compl.len", 16, 4 } } },
	[RDMA_RD_COMPL] = { { { "compl.len", 16, 4 } } },
	[MODE_CHANGE] = { { { "half", 16, 1 }, { "mode", 16, 1 } } },
	[CH_RCV_BUF] = { { { "size", 16, 4 } } },
	[CH_RCV_BUF_ACK] = { { { "size", 16, 4 } } },
	[SUSP_COMM] = { { { "service_id", 16, 8 } } },
	[HELLO] = { VERSION, { { "max_adverts", 18, 2 }, { "des_rem_rcv_sz", 20, 4 },
		{ "local_rcv_sz", 24, 4 }, { "loc_ord", 28, 2 }, { "loc_ird", 30, 2 } } },
	[HELLO_ACK] = { VERSION, { { "max_adverts", 18, 2 }, { "act_rcv_sz", 20, 4 },
		{ "loc_ord", 24, 2 }, { "loc_ird", 26, 2 } } },
}
local LAYOUTS_IB = {
	[HELLO] = { VERSION, { { "ip_version", 17, 1 }, { "capabilities", 17, 1 },
		{ "max_adverts", 19, 1 }, { "des_rem_rcv_sz", 20, 4 }, { "local_rcv_sz", 24, 4 },
		{ "port", 28, 2 }, { "source", 32, 16 }, { "destination", 48, 16 } } },
	[HELLO_ACK] = { VERSION, { { "max_adverts", 19, 1 }, { "act_rcv_sz", 20, 4 } } },
}
local BASE_LAYOUT = { { { "mid", 0, 1 },
	{ "flags", 1, 1 }, { "oob_pres", 1, 1 }, { "oob_pend", 1, 1 }, { "req_pipe", 1, 1 },
	{ "bufs", 2, 2 }, { "len", 4, 4 }, { "mseq", 8, 4 }, { "mseq_ack", 12, 4 } } }

local function show_layout(item, m, layout)
	for _, part in ipairs(layout or {}) do
		for _, place in ipairs(part) do
			item:add(f[place[1]], m.tvb(m.at + place[2], place[3]))
		end
	end
end

-- Shows message `m`, and says in a line what it is.
local function show_message(item, m, fact)
	if not m.mid then
		return "message that is cut"
	end
	show_layout(item, m, BASE_LAYOUT)
	if not m.cut then
		show_layout(item, m, m.ib and LAYOUTS_IB[m.mid] or LAYOUTS[m.mid])
	end
	local text = string.format("%s MSeq=%d MSeqAck=%d Bufs=%d", message_names[m.mid] or
		string.format("MID %#04x", m.mid), m.mseq, m.mseq_ack, m.bufs)
	if m.payload > 0 then
		local bytes = range(m.tvb, m.at + m.header, math.min(m.size - m.header, m.payload))
		if bytes then
			item:add(f.payload, bytes)
		end
		item:add(f.payload_len, m.payload):set_generated()
		text = string.format("%s, %d bytes", text, m.payload)
	end
	if fact.credit then
		item:add(f.credit, fact.credit):set_generated()
	end
	if fact.stale then
		item:add(f.stale, true):set_generated()
	end
	return text
end

local function show(tree, pinfo, m, fact)
	local bytes = range(m.tvb, m.at, m.size)
	local item = bytes and tree:add(sdp, bytes) or tree:add(sdp)
	local text
	if fact.message then
		text = show_message(item, m, fact)
	elseif fact.begins then
		item:add(f.begins, fact.begins):set_generated()
		text = "more of a message"
	elseif fact.rdma then
		item:add(f.rdma, fact.rdma):set_generated()
		item:add(f["rdma.bytes"], fact.bytes):set_generated()
		text = string.format("%s of %d bytes", rdma_names[fact.rdma], fact.bytes)
	elseif fact.reject then
		item:add(f.reject, bytes, fact.reject)
		text = "rejected: " .. fact.reject
	else
		text = fact.what or "packet"
	end
	if fact.connection then
		item:add(f.connection, fact.connection):set_generated()
		item:add(f.from, fact.from):set_generated()
	end
	if fact.offset then
		local offset = UInt64(fact.offset & 0xffffffff, fact.offset >> 32)
		item:add(f.offset, offset):set_generated()
	end
	if fact.answers then
		item:add(f.answers, fact.answers):set_generated()
	end
	for _, name in ipairs({ "probe", "again", "early" }) do
		if fact[name] then
			item:add(f[name], true):set_generated()
			text = text .. ", " .. name
		end
	end
	for _, found in ipairs(fact.complaints or {}) do
		local name, more = table.unpack(found)
		local known = complaints[name]
		more = more ~= "" and ": " .. more or ""
		item:add_proto_expert_info(known.expert, known.text .. more)
	end
	item:append_text(", " .. text)
	pinfo.cols.protocol:set("SDP")
	pinfo.cols.info:append(" | " .. text)
end

-- What is found of part number `part` of this frame: once, by `analyse`, which fills it.
local function fact_of(pinfo, part, analyse)
	local known = facts[pinfo.number] or {}
	facts[pinfo.number] = known
	if not known[part] then
		local fact = { frame = pinfo.number }
		known[part] = fact
		analyse(fact)
	end
	return known[part]
end

local function address(of, port)
	return tostring(of) .. "/" .. port
end

-- InfiniBand and RoCE

local bth_field = Field.new("infiniband.bth")
local icrc_field = Field.new("infiniband.invariant.crc")

-- What opcodes of reliable connections are, and the bytes between BTH and payload.
local SEND, RDMA_WRITE, RDMA_READ, RESPONSE, ACK = 1, 2, 3, 4, 5
local OPCODES = {
	[0x00] = { SEND, 0, first = true },
	[0x01] = { SEND, 0 },
	[0x02] = { SEND, 0, last = true },
	[0x03] = { SEND, 4, last = true },
	[0x04] = { SEND, 0, first = true, last = true },
	[0x05] = { SEND, 4, first = true, last = true },
	[0x06] = { RDMA_WRITE, 16, first = true },
	[0x07] = { RDMA_WRITE, 0 },
	[0x08] = { RDMA_WRITE, 0, last = true },
	[0x09] = { RDMA_WRITE, 4, last = true },
	[0x0a] = { RDMA_WRITE, 16, first = true, last = true },
	[0x0b] = { RDMA_WRITE, 20, first = true, last = true },
	[0x0c] = { RDMA_READ, 16 },
	[0x0d] = { RESPONSE, 4, aeth = true },
	[0x0e] = { RESPONSE, 0 },
	[0x0f] = { RESPONSE, 4, aeth = true },
	[0x10] = { RESPONSE, 4, aeth = true },
	[0x11] = { ACK, 4, aeth = true },
	[0x16] = { SEND, 4, last = true },
	[0x17] = { SEND, 4, first = true, last = true },
}
local UD_SEND_ONLY = 0x64
local CM_CLASS = 7
local CM_REQ, CM_REJ, CM_REP, CM_DREQ = 0x10, 0x12, 0x13, 0x15
-- What stands above the port in service identifiers of the RDMA CM's TCP port space, and of SDP.
local PS_TCP, PS_SDP = 0x106, 0x1

local function psn_after(psn, packets)
	return (psn + packets) & 0xffffff
end

-- A packet of `from` that acknowledges, and maybe answers an RDMA Read.
local function roce_answer(from, op, psn, m, fact)
	local reader = from.peer
	local syndrome = op.aeth and read(m.tvb, m.at - 4, ">B")
	local is_ack = syndrome and syndrome >> 5 == 0
	if is_ack and reader.psn and distance(psn, reader.psn, 24) >= 0 then
		complain(fact, "missing", "PSN %d to %d", reader.psn, psn)
		reader.psn, reader.message, reader.write = psn_after(psn, 1), nil, nil
	end
	if op[1] ~= RESPONSE then
		return
	end
	for i, open in ipairs(reader.reads) do
		if psn == open.psn then
			open.psn = psn_after(psn, 1)
			go_on_reading(open, m.size, fact)
			if open.left <= 0 then
				table.remove(reader.reads, i)
			end
			return
		end
	end
	fact.again, fact.what = true, "Read response"
end

-- A packet of `from` that asks for something.
local function roce_request(from, op, psn, m, fact)
	local lag = from.psn and distance(psn, from.psn, 24) or 0
	if lag ~= 0 then
		fact.again, fact.early = lag < 0 or nil, lag > 0 or nil
		fact.message = op[1] == SEND and op.first
		return
	end
	local packets = 1
	if op[1] == SEND then
		part_of_send(from, op.first, op.last, m, fact)
	elseif op[1] == RDMA_READ then
		local va, rkey, len = read(m.tvb, m.at - 16, ">i8I4I4")
		begin_read(from, rkey, va, len, fact).psn = psn
		local mtu = from.connection.mtu
		packets = math.max((len + mtu - 1) // mtu, 1)
	else
		if op.first then
			local va, rkey, len = read(m.tvb, m.at - op[2], ">i8I4I4")
			from.write = find_advert(from.sink, rkey, va, len)
			if not from.write and len > 0 then
				complain(fact, "memory", "Write of %d bytes at %#x", len, va)
			end
		end
		go_on_writing(from.write, m.size, fact)
		if op.last then
			from.write = nil
		end
	end
	from.psn = psn_after(psn, packets)
end

local function dissect_rc(tvb, at, pinfo, tree)
	local opcode, bits, qp, psn = read(tvb, at, ">BBxxxI3xI3")
	local op = OPCODES[opcode]
	local to = by_qp[address(pinfo.net_dst, qp)]
	if not op or not to then
		return
	end
	local icrc = icrc_field()
	local finish = icrc and icrc.source == tvb and icrc.offset or tvb:reported_len() - 4
	local start = at + 12 + op[2]
	local size = math.max(finish - (bits >> 4 & 3) - start, 0)
	local m = op[1] == SEND and op.first and parse(tvb, start, size)
		or { tvb = tvb, at = start, size = size }
	local from = to.peer
	local fact = fact_of(pinfo, 1, function(fact)
		fact.connection, fact.from = from.connection.number, from.number
		if op[1] == RESPONSE or op[1] == ACK then
			roce_answer(from, op, psn, m, fact)
		else
			roce_request(from, op, psn, m, fact)
		end
	end)
	if op[1] ~= ACK or fact.complaints then
		show(tree, pinfo, m, fact)
	end
end

-- A CM request with a Hello: a new connection.
local function cm_request(tvb, data, pinfo, id, tree)
	local service, qp, psn, mtu = read(tvb, data + 8, ">i8"), read(tvb, data + 32, ">I3"),
		read(tvb, data + 44, ">I3"), read(tvb, data + 50, ">B")
	-- In the TCP port space the RDMA CM's own header precedes.
	local skip = service >> 16 == PS_TCP and 36 or 0
	local m = parse(tvb, data + 140 + skip, 92 - skip)
	if service >> 16 ~= PS_TCP and service >> 16 ~= PS_SDP or not is_hello(m) then
		return
	end
	show(tree, pinfo, m, fact_of(pinfo, 1, function(fact)
		fact.message = true
		local request = address(pinfo.net_src, id)
		local known = by_request[request]
		if known then
			fact.again, fact.connection, fact.from = true, known.number, 1
			return
		end
		local connection = new_connection(pinfo)
		by_request[request] = connection
		connection.mtu = 128 << (mtu >> 4)
		local from = connection.ends[1]
		by_qp[address(pinfo.net_src, qp)] = from
		-- That of what it receives.
		from.peer.psn = psn
		greet(from, m, fact)
	end))
end

-- A CM reply to such a request.
local function cm_reply(tvb, data, pinfo, connection, tree)
	local qp, psn = read(tvb, data + 12, ">I3"), read(tvb, data + 20, ">I3")
	local m = parse(tvb, data + 36, 196)
	show(tree, pinfo, m, fact_of(pinfo, 1, function(fact)
		fact.message = true
		local from = connection.ends[2]
		if from.peer.psn then
			fact.again, fact.connection, fact.from = true, connection.number, 2
			return
		end
		by_qp[address(pinfo.net_src, qp)] = from
		from.peer.psn = psn
		if m.mid == HELLO_ACK then
			greet(from, m, fact)
		else
			complain(fact, "hello", "no HelloAck in the reply")
		end
	end))
end

-- A rejection: what its private data says.
local function show_reject(tvb, at, size, pinfo, connection, tree)
	local bytes = range(tvb, at, size)
	local text = bytes and bytes:raw():match("^SDP %a+") or "without a reason"
	show(tree, pinfo, { tvb = tvb, at = at, size = size }, fact_of(pinfo, 1, function(fact)
		fact.connection, fact.from, fact.reject = connection.number, 2, text
	end))
end

local function dissect_cm(tvb, at, pinfo, tree)
	local class, id, attribute = read(tvb, at, ">xBxxxxxxc8I2")
	if class ~= CM_CLASS then
		return
	end
	local data = at + 24
	local connection = by_request[address(pinfo.net_dst, id)]
	if attribute == CM_REQ then
		cm_request(tvb, data, pinfo, id, tree)
	elseif attribute == CM_REP and connection then
		cm_reply(tvb, data, pinfo, connection, tree)
	elseif attribute == CM_REJ and connection then
		show_reject(tvb, data + 84, 148, pinfo, connection, tree)
	elseif attribute == CM_DREQ then
		local to = by_qp[address(pinfo.net_dst, read(tvb, data + 8, ">I3"))]
		if to then
			local nothing = { tvb = tvb, at = data, size = 0 }
			show(tree, pinfo, nothing, fact_of(pinfo, 1, function(fact)
				fact.connection, fact.from = to.connection.number, to.peer.number
				fact.what = "the connection ends"
				drop(to.peer, fact)
			end))
		end
	end
end

-- iWARP

local stream_field = Field.new("tcp.stream")
local seq_field = Field.new("tcp.seq_raw")
local len_field = Field.new("tcp.len")
local private_field = Field.new("iwarp_mpa.privatedata")
local ulpdu_field = Field.new("iwarp_mpa.ulpdulength")
local MPA_REQUEST = "MPA ID Req Frame"
-- Flags of MPA's set-up frames: a rejection, and four bytes before the private data (RFC 6581).
local MPA_REJECT, MPA_ENHANCED = 0x20, 0x10

-- Private data of MPA's request or reply.
local function dissect_mpa(info, pinfo, tree)
	local tvb, at, size = info.source, info.offset, info.len
	local key, flags = read(tvb, at - 20, ">c16B")
	if flags & MPA_ENHANCED ~= 0 then
		at, size = at + 4, size - 4
	end
	local stream = stream_field().value
	local connection = by_stream[stream]
	local m = parse(tvb, at, size)
	if key == MPA_REQUEST then
		if not is_hello(m) then
			return
		end
		show(tree, pinfo, m, fact_of(pinfo, 0, function(fact)
			fact.message = true
			local new = new_connection(pinfo)
			new.iwarp, new.from = true, address(pinfo.net_src, pinfo.src_port)
			by_stream[stream] = new
			greet(new.ends[1], m, fact)
		end))
	elseif connection and flags & MPA_REJECT ~= 0 then
		show_reject(tvb, at, size, pinfo, connection, tree)
	elseif connection then
		show(tree, pinfo, m, fact_of(pinfo, 0, function(fact)
			fact.message = true
			if m.mid == HELLO_ACK then
				greet(connection.ends[2], m, fact)
			else
				complain(fact, "hello", "no HelloAck in the reply")
			end
		end))
	end
end

-- RDMAP's operations.
local WRITE_OP, READ_OP, RESPONSE_OP, SEND_OP, SEND_SE_INVALIDATE_OP = 0, 1, 2, 3, 6

-- Whether TCP sends this packet of `from` again.
local function is_again(pinfo, from)
	return fact_of(pinfo, "tcp", function(fact)
		local seq, len = seq_field().value, len_field().value
		fact.again = from.tcp and distance(seq, from.tcp, 32) < 0
		if not fact.again then
			from.tcp = (seq + len) & 0xffffffff
		end
	end).again
end

-- An FPDU: a segment of an RDMAP message.
local function dissect_fpdu(part, info, pinfo, connection, tree)
	local tvb, at = info.source, info.offset + 2
	local len = info.value
	local ddp, rdmap = read(tvb, at, ">BB")
	if not ddp then
		return
	end
	local op, last = rdmap & 0x0f, ddp & 0x40 ~= 0
	local header = ddp & 0x80 ~= 0 and 14 or 18
	local is_send = op >= SEND_OP and op <= SEND_SE_INVALIDATE_OP
	if not is_send and op > RESPONSE_OP then
		return
	end
	local offset = is_send and read(tvb, at + 14, ">I4")
	local m = offset == 0 and parse(tvb, at + header, len - header)
		or { tvb = tvb, at = at + header, size = len - header }
	local here = address(pinfo.net_src, pinfo.src_port)
	local from = connection.ends[here == connection.from and 1 or 2]
	local again = is_again(pinfo, from)
	show(tree, pinfo, m, fact_of(pinfo, part, function(fact)
		fact.connection, fact.from = connection.number, from.number
		if again then
			fact.again, fact.message = true, offset == 0
		elseif is_send then
			part_of_send(from, offset == 0, last, m, fact)
		elseif op == READ_OP then
			local size, stag, va = read(tvb, m.at + 12, ">I4I4i8")
			begin_read(from, stag, va, size, fact)
		elseif op == RESPONSE_OP then
			local open = from.peer.reads[1]
			if open then
				go_on_reading(open, m.size, fact)
			end
			if last then
				table.remove(from.peer.reads, 1)
			end
		elseif op == WRITE_OP then
			local stag, va = read(tvb, at + 2, ">I4i8")
			local open = find_advert(from.sink, stag, va, m.size)
			if not open and m.size > 0 then
				complain(fact, "memory", "Write of %d bytes at %#x", m.size, va)
			end
			go_on_writing(open, m.size, fact)
		end
	end))
end

function sdp.dissector(_, pinfo, tree)
	local bth = bth_field()
	if bth then
		local tvb, at = bth.source, bth.offset
		if read(tvb, at, ">B") == UD_SEND_ONLY then
			dissect_cm(tvb, at + 20, pinfo, tree)
		else
			dissect_rc(tvb, at, pinfo, tree)
		end
		return
	end
	local stream = stream_field()
	if not stream then
		return
	end
	for _, info in ipairs({ private_field() }) do
		dissect_mpa(info, pinfo, tree)
	end
	local connection = by_stream[stream.value]
	if connection then
		for part, info in ipairs({ ulpdu_field() }) do
			dissect_fpdu(part, info, pinfo, connection, tree)
		end
	end
end

-- It looks at whole packets, for an RDMA Read is no payload of anything.
register_postdissector(sdp)

-- Keeps payload of these connections from dissectors that guess.
sdp:register_heuristic("infiniband.payload", function(_, pinfo)
	return by_qp[address(pinfo.net_dst, pinfo.dst_port)] ~= nil
end)
sdp:register_heuristic("iwarp_ddp_rdmap", function()
	return by_stream[stream_field().value] ~= nil
end)

-- The summary: lines of a connection's number, the side and the address of an end, something that
-- it sent, and how many or how many bytes.

-- What `fact` adds to the sums of its end.
local function add_fact(fact, add)
	if not (fact.again or fact.early) then
		if fact.mid then
			add(message_names[fact.mid] or "reserved", 1)
			add("payload", fact.payload or 0)
		end
		if fact.mid == RDMA_RD_COMPL then
			add("read_reported", fact.compl_len or 0)
		elseif fact.mid == RDMA_WR_COMPL then
			add("write_reported", fact.compl_len or 0)
		elseif fact.rdma == READ_RESPONSE then
			add("read_response", fact.bytes)
		elseif fact.rdma == WRITE then
			add("write", fact.bytes)
		end
	end
	for _, found in ipairs(fact.complaints or {}) do
		add("complaint_" .. found[1], 1)
	end
end

local function print_summary()
	local sums = {}
	for _, parts in pairs(facts) do
		for _, fact in pairs(parts) do
			if fact.connection then
				local of = connections[fact.connection].ends[fact.from]
				local known = sums[of] or {}
				sums[of] = known
				add_fact(fact, function(what, n)
					known[what] = (known[what] or 0) + n
				end)
			end
		end
	end
	for _, connection in ipairs(connections) do
		for _, of in ipairs(connection.ends) do
			local lines = {}
			for what, n in pairs(sums[of] or {}) do
				table.insert(lines, table.concat({ connection.number,
					end_names[of.number], of.address, what, n }, " "))
			end
			table.sort(lines)
			for _, line in ipairs(lines) do
				print(line)
			end
		end
	end
end

if wants_summary then
	local listener = Listener.new("frame")
	listener.packet = function() end
	listener.draw = print_summary
end
