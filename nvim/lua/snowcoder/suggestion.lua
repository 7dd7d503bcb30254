--- One suggestion: where it belongs, what is left of it, taking it, and telling the server.
--- Both ways of drawing (`native` and `ghost`) share this; lengths are bytes unless said otherwise.
local M = {}

---@class snowcoder.Place where a request was made, in the text of that moment
---@field bufnr integer
---@field row integer 0-based
---@field col integer cursor, in bytes
---@field line string

---@class snowcoder.Suggestion
---@field bufnr integer
---@field client vim.lsp.Client
---@field origin table the item as it first came under its id; what notifications name
---@field row integer 0-based
---@field start integer column where `text` begins
---@field text string what `row` holds from `start` on once it is taken, lines separated by \n
---@field kept string end of the line right of the cursor, which stays
---@field replaced string text right of the cursor that it replaces

--- Items by id as they first came, and whether they were shown. The server repeats an id with
--- what is left of the text while it is typed through.
local known, count = {}, 0 ---@type table<string, {item: table, shown: boolean?}>, integer
local KNOWN = 256

---@param item table
---@return string?
local function id_of(item)
  local command = item.command
  return command and command.arguments and command.arguments[1]
end

---@param id string
---@param item table
local function remember(id, item)
  local entry = known[id]
  if entry and vim.endswith(entry.item.insertText, item.insertText) then
    return entry
  end
  if count >= KNOWN then
    known, count = {}, 0
  end
  count = count + 1
  known[id] = { item = item, shown = entry and entry.shown }
  return known[id]
end

--- The cursor's place in a buffer that the current window shows.
---@param bufnr integer
---@return snowcoder.Place
function M.place(bufnr)
  local row, col = unpack(vim.api.nvim_win_get_cursor(0))
  local line = vim.api.nvim_buf_get_lines(bufnr, row - 1, row, false)[1] or ''
  return { bufnr = bufnr, row = row - 1, col = col, line = line }
end

--- The suggestion of an LSP item; nil for what cannot be shown here.
---@param client vim.lsp.Client
---@param item table lsp.InlineCompletionItem
---@param place snowcoder.Place
---@return snowcoder.Suggestion?
function M.new(client, item, place)
  local id = id_of(item)
  if type(item.insertText) ~= 'string' or not id then
    return nil
  end
  local start, stop = place.col, place.col
  if item.range then
    if item.range.start.line ~= place.row then
      return nil
    end
    local encoding = client.offset_encoding
    start = vim.str_byteindex(place.line, encoding, item.range.start.character, false)
    stop = vim.str_byteindex(place.line, encoding, item.range['end'].character, false)
  end
  return {
    bufnr = place.bufnr,
    client = client,
    origin = remember(id, item).item,
    row = place.row,
    start = start,
    text = (item.insertText:gsub('\r\n', '\n')),
    kept = place.line:sub(math.max(stop, place.col) + 1),
    replaced = place.line:sub(place.col + 1, stop),
  }
end

--- What is left of a suggestion at the cursor, and how much right of the cursor it replaces;
--- nil where the text has become something else.
---@param s snowcoder.Suggestion
---@return string? rest
---@return integer replaced
function M.rest(s)
  local place = M.place(s.bufnr)
  if vim.api.nvim_get_current_buf() ~= s.bufnr or place.row ~= s.row or place.col < s.start then
    return nil, 0
  end
  local typed = place.line:sub(s.start + 1, place.col)
  local right = place.line:sub(place.col + 1)
  if not vim.startswith(s.text, typed) or not vim.endswith(right, s.kept) then
    return nil, 0
  end
  -- Right of the cursor stands what it replaced anyway, or what an editor closed meanwhile.
  local between = right:sub(1, #right - #s.kept)
  if between ~= s.replaced and not between:match('^[%)%]}"\'`]*$') then
    return nil, 0
  end
  return s.text:sub(#typed + 1), #between
end

--- Length of the next word of a text, with the space before it.
---@param text string
---@return integer
function M.next_word(text)
  local space = text:match('^%s*')
  local rest = text:sub(#space + 1)
  -- Bytes from 128 on are letters of other scripts and emoji: never cut inside one.
  local word = rest:match('^[%w_\128-\255]+') or rest:match('^[^%w_%s\128-\255]+') or ''
  return #space + #word
end

--- Length of the next line of a text; a line break at its beginning belongs to it.
---@param text string
---@return integer
function M.next_line(text)
  local stop = text:find('\n', 2, true)
  return stop and stop - 1 or #text
end

---@param s snowcoder.Suggestion
---@param method string
---@param more? table
local function notify(s, method, more)
  if not s.client:is_stopped() then
    s.client:notify(method, vim.tbl_extend('error', { item = s.origin }, more or {}))
  end
end

--- Tell the server, once for every suggestion, that it is on screen.
---@param s snowcoder.Suggestion
function M.shown(s)
  local entry = known[id_of(s.origin)]
  if entry and not entry.shown then
    entry.shown = true
    notify(s, 'textDocument/didShowCompletion')
  end
end

--- Tell the server that the user turned it down.
---@param s snowcoder.Suggestion
function M.dismissed(s)
  notify(s, 'textDocument/didDismissCompletion')
end

--- UTF-16 units of a text as the server sent it.
---@param s snowcoder.Suggestion
---@param text string
---@return integer
local function units(s, text)
  if s.origin.insertText:find('\r\n', 1, true) then
    text = text:gsub('\n', '\r\n')
  end
  return vim.str_utfindex(text, 'utf-16')
end

--- Put the first bytes of what is left into the buffer, as one step of undo, and tell the server.
--- The last step of a suggestion that is taken piece by piece counts as accepting it.
---@param s snowcoder.Suggestion
---@param measure fun(text: string): integer how much of what is left
---@return boolean more whether something is left
function M.take(s, measure)
  local rest, replaced = M.rest(s)
  if not rest or rest == '' then
    return false
  end
  local length = measure(rest)
  local piece, left = rest:sub(1, length), rest:sub(length + 1)
  local all = left == ''
  local row, col = s.row, M.place(s.bufnr).col
  vim.go.undolevels = vim.go.undolevels -- ends the step of undo that typing began
  local lines = vim.split(piece, '\n', { plain = true })
  vim.api.nvim_buf_set_text(s.bufnr, row, col, row, col + (all and replaced or 0), lines)
  s.row = row + #lines - 1
  s.start = (#lines == 1 and col or 0) + #lines[#lines]
  s.text = left
  vim.api.nvim_win_set_cursor(0, { s.row + 1, s.start })
  if all then
    s.client:exec_cmd(s.origin.command, { bufnr = s.bufnr })
  else
    local taken = units(s, (s.origin.insertText:gsub('\r\n', '\n'))) - units(s, left)
    notify(s, 'textDocument/didPartiallyAcceptCompletion', { acceptedLength = taken })
  end
  return not all
end

return M
