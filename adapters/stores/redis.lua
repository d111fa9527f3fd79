-- Every operation of the Redis store, one script: ARGV[1] names the operation, ARGV[2] begins every key, ARGV[3] is the
-- caller's time in Unix seconds. Numbers of the caller travel as text and are kept as such, so that none is rounded.
--
-- A session is four keys, which expire together: its head (hash), the ids of its messages in order (list), the
-- messages by id (hash), its traces (list). Besides: who has a key (string), whose the sessions are (set), the ids of
-- all sessions in order and by expiry (sorted sets; what has expired stays there until the purge).
--
-- A write is decided on a picture in memory, and only then put down: a script that fails has changed nothing.

local operation, prefix, now = ARGV[1], ARGV[2], tonumber(ARGV[3])
local position = 3

local function following()
  position = position + 1
  return ARGV[position]
end

local function head_key(id) return prefix .. ':head:' .. id end
local function order_key(id) return prefix .. ':order:' .. id end
local function messages_key(id) return prefix .. ':messages:' .. id end
local function traces_key(id) return prefix .. ':traces:' .. id end
local function key_key(key) return prefix .. ':key:' .. key end
local function subject_key(subject) return prefix .. ':subject:' .. subject end
local ALL, EXPIRY, ERASED = prefix .. ':all', prefix .. ':expiry', prefix .. ':erased'
local META, AUDIT, FORMAT = prefix .. ':meta', prefix .. ':audit', prefix .. ':format'
local FIELDS = {'key', 'subject', 'version', 'started', 'last', 'expires', 'body'}
local CHUNK = 1000 -- what unpack takes without complaint

local function read_row(id)
  local values = redis.call('HMGET', head_key(id), unpack(FIELDS))
  if not values[3] then return nil end
  local row = {id = id}
  for i, field in ipairs(FIELDS) do row[field] = values[i] end
  return row
end

local function is_there(row) return row and tonumber(row.expires) > now end

local function live_row(id)
  local row = read_row(id)
  return is_there(row) and row or nil
end

local function packed(row)
  return {row.id, row.key, row.subject, row.version, row.started, row.last, row.expires, row.body}
end

-- Milliseconds for PEXPIREAT, never earlier than the expiry and never out of Redis' bounds.
local function milliseconds(seconds)
  local exact = math.ceil(tonumber(seconds) * 1000)
  return string.format('%.0f', math.max(1, math.min(exact, 253402300799000)))
end

-- Every byte of a session that is, or was, under this id.
local function wipe(id, row)
  redis.call('DEL', head_key(id), order_key(id), messages_key(id), traces_key(id))
  redis.call('ZREM', ALL, id)
  redis.call('ZREM', EXPIRY, id)
  if row then
    -- Since it expired, its key may have become another one's.
    if redis.call('GET', key_key(row.key)) == id then redis.call('DEL', key_key(row.key)) end
    if row.subject ~= '' then redis.call('SREM', subject_key(row.subject), id) end
  end
end

-- --- writing: the picture ------------------------------------------------------------------------------------

local sessions, touched, holders = {}, {}, {}

local function load(id)
  local session = sessions[id]
  if not session then
    local row = read_row(id)
    session = {id = id, old = row, row = is_there(row) and row or nil}
    sessions[id] = session
    touched[#touched + 1] = session
  end
  return session
end

-- The session that has this key, if one has.
local function holder_of(key)
  if holders[key] == nil then holders[key] = redis.call('GET', key_key(key)) or false end
  if not holders[key] then return nil end
  local session = load(holders[key])
  return session.row and session.row.key == key and session or nil
end

local function drop(session)
  session.row, session.is_wiped = nil, true
  session.order, session.messages, session.traces = {}, {}, {}
end

local function change(session, row)
  session.is_changed = true
  session.row = row
  holders[row.key] = session.id
  return {'written', row.version}
end

local function next_version(row, key)
  local new = {}
  for field, value in pairs(row) do new[field] = value end
  new.version = string.format('%d', tonumber(row.version) + 1)
  new.key = key
  return new
end

local function order_of(session)
  if not session.order then
    session.order = redis.call('LRANGE', order_key(session.id), 0, -1)
    session.messages = {}
  end
  local known = session.known
  if not known then
    known = {}
    for _, id in ipairs(session.order) do known[id] = true end
    session.known = known
  end
  return session.order, known
end

-- Whoever lets go of a session takes it off the list. One that is listed, and has not expired, was evicted.
local function is_lost(session)
  local expires = not session.old and not session.is_wiped and redis.call('ZSCORE', EXPIRY, session.id)
  return expires and tonumber(expires) > now
end

local function append()
  local row = {id = following()}
  for _, field in ipairs(FIELDS) do row[field] = following() end
  local retention, traces_kept = tonumber(following()), tonumber(following())
  local messages, traces = {}, {}
  for i = 1, tonumber(following()) do messages[i] = {following(), following()} end
  for i = 1, tonumber(following()) do traces[i] = following() end

  local session = load(row.id)
  if session.row then
    if session.row.version ~= row.version then return {'conflict', unpack(packed(session.row))} end
  else
    local erased = row.subject ~= '' and redis.call('HGET', ERASED, row.subject)
    if erased and tonumber(erased) >= tonumber(row.started) then return {'gone'} end
    if row.version ~= '0' then return {is_lost(session) and 'lost' or 'gone'} end
  end
  local holder = holder_of(row.key)
  if holder and holder ~= session then return {'conflict', unpack(packed(holder.row))} end
  if not session.row then
    drop(session)
    session.known = nil
  end

  local outcome = change(session, next_version(row, row.key))
  local order, known = order_of(session)
  for _, message in ipairs(messages) do
    if not known[message[1]] then
      known[message[1]] = true
      order[#order + 1] = message[1]
      session.messages[message[1]] = message[2]
    end
  end
  local kept = {}
  for i, id in ipairs(order) do
    if i > #order - retention then
      kept[#kept + 1] = id
    else
      known[id], session.messages[id] = nil, false
    end
  end
  session.order, session.is_reordered = kept, session.is_reordered or #messages > 0 or #kept ~= #order
  if #traces > 0 or session.traces then
    session.traces = session.traces or {}
    for _, trace in ipairs(traces) do session.traces[#session.traces + 1] = trace end
  end
  session.traces_kept = math.min(traces_kept, session.traces_kept or traces_kept)
  return outcome
end

-- A message is the time (8 bytes), the length of its text (4), the text, the body.
local function body_of(message)
  return string.sub(message, 13 + struct.unpack('>I4', string.sub(message, 9, 12)))
end

local function exchange()
  local id, message_id, new, was = following(), following(), following(), following()
  local session = load(id)
  if not session.row then return {'gone'} end
  local _, known = order_of(session)
  if not known[message_id] then return {'gone'} end
  local old = session.messages[message_id] or redis.call('HGET', messages_key(id), message_id)
  if not old or body_of(old) ~= was then return {'gone'} end
  session.messages[message_id] = string.sub(old, 1, 8) .. string.sub(new, 9)
  return change(session, next_version(session.row, session.row.key))
end

local function rekey()
  local session, key = load(following()), following()
  local holder = holder_of(key)
  if not session.row or (holder and holder ~= session) then return {'gone'} end
  return change(session, next_version(session.row, key))
end

local function remove()
  local session = load(following())
  if not session.row then
    session.is_wiped = true -- also what is left of one that was evicted
    return {'gone'}
  end
  local version = session.row.version
  drop(session)
  session.known = nil
  return {'written', version}
end

-- --- writing: what the picture says is put down ------------------------------------------------------------------

local function put_down_messages(session)
  for id, message in pairs(session.messages or {}) do
    if message then
      redis.call('HSET', messages_key(session.id), id, message)
    else
      redis.call('HDEL', messages_key(session.id), id)
    end
  end
  if session.is_reordered then
    redis.call('DEL', order_key(session.id))
    for first = 1, #session.order, CHUNK do
      redis.call('RPUSH', order_key(session.id), unpack(session.order, first, math.min(first + CHUNK - 1, #session.order)))
    end
  end
end

local function put_down_traces(session)
  for _, trace in ipairs(session.traces or {}) do redis.call('RPUSH', traces_key(session.id), trace) end
  if session.traces_kept == 0 then
    redis.call('DEL', traces_key(session.id))
  elseif session.traces_kept then
    redis.call('LTRIM', traces_key(session.id), -session.traces_kept, -1)
  end
end

local function put_down_subject(row, at)
  local key = subject_key(row.subject)
  redis.call('SADD', key, row.id)
  local expiry = redis.call('PTTL', key) -- below 0 when it has none
  local time = redis.call('TIME')
  if tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000 + expiry < tonumber(at) then
    redis.call('PEXPIREAT', key, at)
  end
end

local function put_down(session)
  local id, row, old = session.id, session.row, session.old
  local at = milliseconds(row.expires)
  if old and old.subject ~= '' and old.subject ~= row.subject then redis.call('SREM', subject_key(old.subject), id) end
  for _, field in ipairs(FIELDS) do redis.call('HSET', head_key(id), field, row[field]) end
  put_down_messages(session)
  put_down_traces(session)
  redis.call('ZADD', ALL, 0, id)
  redis.call('ZADD', EXPIRY, row.expires, id)
  redis.call('SET', key_key(row.key), id)
  if row.subject ~= '' then put_down_subject(row, at) end
  for _, key in ipairs({head_key(id), order_key(id), messages_key(id), traces_key(id), key_key(row.key)}) do
    redis.call('PEXPIREAT', key, at)
  end
end

-- What is let go of first, so that nobody's new key goes with it. But Redis tests for memory with the first command
-- that writes, and deleting needs none: a batch that adds something begins with a command that does.
local function put_all_down()
  for _, session in ipairs(touched) do
    if session.is_changed and session.row then
      redis.call('SETNX', FORMAT, '1')
      break
    end
  end
  for _, session in ipairs(touched) do
    local old, row = session.old, session.row
    if session.is_wiped then
      wipe(session.id, old)
    elseif session.is_changed and old.key ~= row.key and redis.call('GET', key_key(old.key)) == session.id then
      redis.call('DEL', key_key(old.key))
    end
  end
  for _, session in ipairs(touched) do
    if session.is_changed and session.row then put_down(session) end
  end
end

-- --- the operations -----------------------------------------------------------------------------------------------

local WRITES = {append = append, replace = exchange, rekey = rekey, remove = remove}
local operations = {}

function operations.write()
  local outcomes = {}
  while position < #ARGV do outcomes[#outcomes + 1] = WRITES[following()]() end
  put_all_down()
  return outcomes
end

local function found(row, last)
  local ids = last > 0 and redis.call('LRANGE', order_key(row.id), -last, -1) or {}
  local messages = {}
  for first = 1, #ids, CHUNK do
    local until_here = math.min(first + CHUNK - 1, #ids)
    local bodies = redis.call('HMGET', messages_key(row.id), unpack(ids, first, until_here))
    for i = 1, until_here - first + 1 do
      messages[#messages + 1] = ids[first + i - 1]
      messages[#messages + 1] = bodies[i]
    end
  end
  return {packed(row), messages}
end

function operations.get()
  local row = live_row(following())
  return row and found(row, tonumber(following())) or false
end

function operations.find()
  local key = following()
  local id = redis.call('GET', key_key(key))
  local row = id and live_row(id)
  return row and row.key == key and found(row, tonumber(following())) or false
end

function operations.of_subject()
  local subject, rows = following(), {}
  for _, id in ipairs(redis.call('SMEMBERS', subject_key(subject))) do
    local row = live_row(id)
    if row and row.subject == subject then rows[#rows + 1] = packed(row) end
  end
  return rows
end

function operations.traces()
  local id = following()
  return live_row(id) and redis.call('LRANGE', traces_key(id), 0, -1) or {}
end

function operations.scan()
  local after, limit, rows = following(), tonumber(following()), {}
  while #rows < limit do
    local ids = redis.call('ZRANGEBYLEX', ALL, after == '' and '-' or '(' .. after, '+', 'LIMIT', 0, limit - #rows)
    if #ids == 0 then break end
    for _, id in ipairs(ids) do
      local row = live_row(id)
      if row then rows[#rows + 1] = packed(row) end
    end
    after = ids[#ids]
  end
  return rows
end

-- For when the set of a subject's sessions is not there: it has none, or the set was evicted.
local function listed_of(subject)
  local ids = {}
  for _, id in ipairs(redis.call('ZRANGE', ALL, 0, -1)) do
    if redis.call('HGET', head_key(id), 'subject') == subject then ids[#ids + 1] = id end
  end
  return ids
end

function operations.erase()
  local subject, at, count = following(), following(), 0
  local erased = redis.call('HGET', ERASED, subject)
  local ids = redis.call('SMEMBERS', subject_key(subject))
  if #ids == 0 then ids = listed_of(subject) end
  local rows = {}
  for _, id in ipairs(ids) do rows[id] = read_row(id) end
  redis.call('DEL', subject_key(subject)) -- first what needs no memory: a full Redis can forget
  for _, id in ipairs(ids) do
    local row = rows[id]
    if not row or row.subject == subject then
      wipe(id, row)
      if is_there(row) then count = count + 1 end
    end
  end
  if not erased or tonumber(erased) < tonumber(at) then redis.call('HSET', ERASED, subject, at) end
  return count
end

function operations.erased_at()
  return redis.call('HGET', ERASED, following())
end

-- Some of what has expired: the caller asks again until there is none left, so that no other waits long.
function operations.purge()
  local at, limit = following(), following()
  local ids = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', at, 'LIMIT', 0, limit)
  for _, id in ipairs(ids) do wipe(id, read_row(id)) end
  return #ids
end

function operations.meta()
  local name, default = following(), following()
  redis.call('HSETNX', META, name, default)
  return redis.call('HGET', META, name)
end

function operations.set_meta()
  local name, value, was = following(), following(), following()
  if redis.call('HGET', META, name) ~= was then return 0 end
  redis.call('HSET', META, name, value)
  return 1
end

function operations.add_audit()
  redis.call('LPUSH', AUDIT, following())
  return 1
end

function operations.audit()
  local limit = tonumber(following())
  return limit > 0 and redis.call('LRANGE', AUDIT, 0, limit - 1) or {}
end

-- An entry is the time (8 bytes) and the body.
function operations.exchange_audit()
  local bodies, count = {}, 0
  while position < #ARGV do
    local was = following()
    bodies[was] = following()
  end
  for i, entry in ipairs(redis.call('LRANGE', AUDIT, 0, -1)) do
    local new = bodies[string.sub(entry, 9)]
    if new then
      redis.call('LSET', AUDIT, i - 1, string.sub(entry, 1, 8) .. new)
      count = count + 1
    end
  end
  return count
end

return operations[operation]()
