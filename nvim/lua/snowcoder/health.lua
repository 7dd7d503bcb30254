--- `:checkhealth snowcoder`
local M = {}

local function check_editor()
  local version = tostring(vim.version())
  if vim.fn.has('nvim-0.11') == 0 then
    vim.health.error('Neovim ' .. version .. ' is too old', 'SnowCoder needs 0.11 or newer')
    return false
  end
  local how = vim.lsp.inline_completion and 'vim.lsp.inline_completion' or 'its own ghost text'
  vim.health.ok(('Neovim %s: suggestions are shown by %s'):format(version, how))
  return true
end

---@return string[]?
local function configured()
  local config = vim.lsp.config.snowcoder
  if not config or not vim.lsp.is_enabled('snowcoder') then
    vim.health.error('not set up', "call require('snowcoder').setup() in your init.lua")
    return nil
  end
  return config.cmd
end

---@param cmd string[]
local function check_command(cmd)
  local path = vim.fn.exepath(cmd[1])
  if path == '' then
    vim.health.error(('%s is not on the path'):format(cmd[1]), {
      'pipx install snowcoder',
      "or name it: require('snowcoder').setup({ cmd = { '/path/to/snowcoder', 'serve' } })",
    })
    return
  end
  vim.health.ok('command: ' .. path)
end

local function check_clients()
  local clients = vim.lsp.get_clients({ name = 'snowcoder' })
  if #clients == 0 then
    vim.health.info('no server is running; one starts with the next Python file')
  end
  for _, client in ipairs(clients) do
    local info = client.server_info or {}
    local root = client.root_dir or 'no folder'
    vim.health.ok(('server %s for %s'):format(info.version or '', root))
    if not client.server_capabilities.inlineCompletionProvider then
      vim.health.error('the server offers no inline completion', 'update snowcoder')
    end
  end
  local state = require('snowcoder').status()
  if state ~= '' then
    vim.health.info('status line: ' .. state)
  end
end

--- Check editor, command and server; `snowcoder doctor` checks the server's own installation.
function M.check()
  vim.health.start('snowcoder')
  local cmd = check_editor() and configured()
  if cmd then
    check_command(cmd)
    check_clients()
    vim.health.info('`snowcoder doctor` checks the model and the installation')
  end
end

return M
