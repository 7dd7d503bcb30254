-- SnowCoder in Neovim 0.12 or newer: put these lines into your init.lua.
vim.lsp.config('snowcoder', {
  cmd = { 'snowcoder', 'serve' },
  filetypes = { 'python' },
  root_markers = { 'pyproject.toml', '.git' },
})
vim.lsp.enable('snowcoder')
vim.lsp.inline_completion.enable()
vim.keymap.set('i', '<C-y>', function()
  return vim.lsp.inline_completion.get() and '' or '<C-y>'
end, { expr = true, desc = 'Accept the suggestion' })
