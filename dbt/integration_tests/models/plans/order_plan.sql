{{ config(event='Order Completed', mode='drop-property') }}
{"type": "object",
 "required": ["total"],
 "properties": {"total": {"type": "number"}, "coupon": {"type": "string", "pattern": "^[A-Z0-9]+$"}}}
