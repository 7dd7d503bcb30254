--- SnowCoder in Neovim: `require('snowcoder').setup()`. See `:help snowcoder`.
local M = {}

---@class snowcoder.Options
---@field cmd? string[] how to start the server
---@field filetypes? string[]
---@field root_markers? string[]
---@field settings? table the server's settings, see docs/editors.md
---@field keys? table<string, string|false> key of each action in insert mode; false for none

---@type snowcoder.Options
local DEFAULTS = {
  cmd = { 'snowcoder', 'serve' },
  filetypes = { 'python' },
  root_markers = { 'pyproject.toml', '.git' },
  settings = {},
  keys = {
    accept = '<C-y>',
    accept_word = '<M-Right>',
    accept_line = '<M-Down>',
    next = '<M-]>',
    previous = '<M-[>',
    dismiss = '<C-]>',
  },
}

local options = DEFAULTS ---@type snowcoder.Options
local backend ---@type table `snowcoder.native` or `snowcoder.ghost`
local paused = false
local crashes, last_crash = 0, 0
--- A server that ends this often, each time within so many seconds, is not started again.
local CRASHES, CRASH_SECONDS = 5, 180
local SIGTERM = 15
local status = { state = 'idle', reason = '' }

---@return vim.lsp.Client[]
local function clients()
  return vim.lsp.get_clients({ name = 'snowcoder' })
end

---@param text string
---@param level? integer
local function say(text, level)
  vim.notify('SnowCoder: ' .. text, level or vim.log.levels.INFO)
end

---@param measure fun(text: string): integer
---@return boolean
local function take(measure)
  if not (backend and backend.current()) then
    return false
  end
  backend.take(measure)
  return true
end

--- Accept the suggestion on screen; false where there is none.
---@return boolean
function M.accept()
  return take(string.len)
end

--- Accept its next word; the last one accepts all of it.
---@return boolean
function M.accept_word()
  return take(require('snowcoder.suggestion').next_word)
end

--- Accept its next line.
---@return boolean
function M.accept_line()
  return take(require('snowcoder.suggestion').next_line)
end

---@param step integer
---@return boolean
local function cycle(step)
  if #vim.lsp.get_clients({ name = 'snowcoder', bufnr = 0 }) == 0 then
    return false
  end
  backend.cycle(step)
  return true
end

--- Show the next suggestion. Where none is shown, the server is asked as if by hand.
---@return boolean
function M.next()
  return cycle(1)
end

--- Show the previous suggestion.
---@return boolean
function M.previous()
  return cycle(-1)
end

--- Turn the suggestion on screen down; the server does not show it again here.
---@return boolean
function M.dismiss()
  local suggestion = backend and backend.current()
  if not suggestion then
    return false
  end
  require('snowcoder.suggestion').dismissed(suggestion)
  backend.hide()
  return true
end

---@param client vim.lsp.Client
---@param command string
---@param arguments? any[]
---@param handler? fun(err: table?, result: any)
local function execute(client, command, arguments, handler)
  local params = { command = command, arguments = arguments or {} }
  client:request('workspace/executeCommand', params, handler or function(err)
    if err then
      say(err.message, vim.log.levels.ERROR)
    end
  end, 0)
end

---@param value boolean
local function set_paused(value)
  paused = value
  if backend then
    backend.hide()
  end
  for _, client in ipairs(clients()) do
    execute(client, value and 'snowcoder.pause' or 'snowcoder.resume')
  end
end

--- Suggest nothing until `resume`.
function M.pause()
  set_paused(true)
end

--- Suggest again.
function M.resume()
  set_paused(false)
end

--- For a status line: empty without a server, else the name and what it is doing.
---@return string
function M.status()
  if #clients() == 0 then
    return ''
  end
  return status.state == 'idle' and 'SnowCoder' or 'SnowCoder: ' .. status.state
end

--- Give the server other settings, on top of those of `setup`.
---@param settings table
function M.configure(settings)
  options.settings = vim.tbl_extend('force', options.settings, settings)
  local section = { snowcoder = options.settings }
  vim.lsp.config('snowcoder', { settings = section, init_options = section })
  for _, client in ipairs(clients()) do
    client.settings = vim.tbl_extend('force', client.settings, section)
    client:notify('workspace/didChangeConfiguration', { settings = client.settings })
  end
end

---@param decision table
---@return string
local function sentence(decision)
  local outcome, rule = decision.outcome, decision.rule
  return ('%sZ  %s:%d  %s  %s'):format(
    decision.time:sub(12, 19),
    decision.file,
    decision.line,
    outcome == rule and outcome or ('%s (%s)'):format(outcome, rule),
    decision.detail
  )
end

--- Show what the server decided lately, newest first.
function M.why()
  local client = clients()[1]
  if not client then
    say('no server is running; see :checkhealth snowcoder', vim.log.levels.WARN)
    return
  end
  execute(client, 'snowcoder.why', { 50 }, function(err, decisions)
    if err then
      say(err.message, vim.log.levels.ERROR)
      return
    end
    local lines = {}
    for i = #decisions, 1, -1 do
      lines[#lines + 1] = (sentence(decisions[i]):gsub('\n', ' '))
    end
    vim.cmd('botright 12new')
    vim.bo.buftype, vim.bo.bufhidden, vim.bo.swapfile = 'nofile', 'wipe', false
    vim.api.nvim_buf_set_lines(0, 0, -1, false, #lines > 0 and lines or { 'No request yet.' })
    vim.bo.modifiable = false
  end)
end

---@param params {state: string, reason: string}
local function on_status(params)
  local news = params.state == 'error' and params.reason ~= status.reason
  status = params
  if news then
    say(params.reason, vim.log.levels.ERROR)
  end
  vim.api.nvim_exec_autocmds('User', { pattern = 'SnowcoderStatus', data = params })
  vim.cmd.redrawstatus()
end

--- Start a server again that ended by itself.
---@param code integer
---@param signal integer
local function on_exit(code, signal)
  -- Neovim stops servers in good order or with SIGTERM.
  if vim.v.exiting ~= vim.NIL or signal == SIGTERM or (code == 0 and signal == 0) then
    return
  end
  local now = os.time()
  crashes = now - last_crash < CRASH_SECONDS and crashes + 1 or 1
  last_crash = now
  vim.schedule(function()
    backend.hide()
    if crashes > CRASHES then
      say('the server keeps ending; see :checkhealth snowcoder', vim.log.levels.ERROR)
      return
    end
    -- Enabling attaches every open buffer, once the client that ended is forgotten.
    vim.defer_fn(function()
      vim.lsp.enable('snowcoder')
    end, 100)
  end)
end

---@param lhs string
---@param action fun(): boolean
---@param about string
local function map(lhs, action, about)
  vim.keymap.set('i', lhs, function()
    if not action() then
      -- The key keeps its meaning, ahead of what was typed behind it.
      vim.api.nvim_feedkeys(vim.keycode(lhs), 'in', false)
    end
  end, { desc = 'SnowCoder: ' .. about })
end

local function on_attach(args)
  local client = vim.lsp.get_client_by_id(args.data.client_id)
  if not client or client.name ~= 'snowcoder' then
    return
  end
  backend.attach(client, args.buf)
  if paused then
    execute(client, 'snowcoder.pause')
  end
  local group = vim.api.nvim_create_augroup('snowcoder.rest.' .. args.buf, {})
  vim.api.nvim_create_autocmd('CursorHold', {
    group = group,
    buffer = args.buf,
    desc = 'Let SnowCoder read ahead where the cursor rests',
    callback = function()
      if not client:is_stopped() then
        local params = vim.lsp.util.make_position_params(0, client.offset_encoding)
        client:notify('snowcoder/didRestCursor', params)
      end
    end,
  })
end

--- Start SnowCoder with the next Python file.
---@param given? snowcoder.Options
function M.setup(given)
  if vim.fn.has('nvim-0.11') == 0 then
    say('needs Neovim 0.11 or newer; this one is ' .. tostring(vim.version()), vim.log.levels.ERROR)
    return
  end
  options = vim.tbl_deep_extend('force', DEFAULTS, given or {})
  backend = require(vim.lsp.inline_completion and 'snowcoder.native' or 'snowcoder.ghost')
  vim.api.nvim_set_hl(0, 'SnowcoderGhost', { link = 'NonText', default = true })
  vim.api.nvim_create_autocmd('LspAttach', {
    group = vim.api.nvim_create_augroup('snowcoder', {}),
    callback = on_attach,
  })
  local section = { snowcoder = options.settings }
  vim.lsp.config('snowcoder', {
    cmd = options.cmd,
    filetypes = options.filetypes,
    root_markers = options.root_markers,
    settings = section,
    init_options = section,
    on_exit = on_exit,
    handlers = {
      ['snowcoder/status'] = function(_, params)
        on_status(params)
      end,
    },
  })
  vim.lsp.enable('snowcoder')
  vim.api.nvim_create_user_command('SnowcoderWhy', M.why, { desc = 'Why nothing was suggested' })
  vim.api.nvim_create_user_command('SnowcoderPause', M.pause, { desc = 'Suggest nothing' })
  vim.api.nvim_create_user_command('SnowcoderResume', M.resume, { desc = 'Suggest again' })
  for action, lhs in pairs(options.keys) do
    if lhs then
      map(lhs, M[action], (action:gsub('_', ' ')))
    end
  end
end

return M
