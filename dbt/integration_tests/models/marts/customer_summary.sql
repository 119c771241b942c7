-- depends_on: {{ ref('customers') }}
-- depends_on: {{ ref('orders') }}
-- depends_on: {{ ref('orders_total') }}
-- depends_on: {{ ref('spenders') }}
select c.id, {{ cdp.cdp_profile_id('user_id', 'c.id') }} as profile_id,
       {{ cdp.cdp_trait('orders_total', 'numeric', 'p.traits') }} as total,
       {{ cdp.cdp_in_segment('p.profile_id', 'spenders') }} as spender
from {{ ref('raw_customers') }} c
left join {{ source('cdp', 'profiles') }} p on p.profile_id = {{ cdp.cdp_profile_id('user_id', 'c.id') }}
