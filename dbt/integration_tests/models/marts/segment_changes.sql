{{ config(materialized='incremental') }}
-- depends_on: {{ ref('orders') }}
-- depends_on: {{ ref('spenders') }}
select epoch, seq, kind, segment, profile_id, at
from {{ source('cdp', 'changes') }}
where kind in ('segment_entered', 'segment_exited')
{% if is_incremental() %}
  and {{ cdp.cdp_changes_since(this) }}
{% endif %}
