{{ config(materialized='table') }}
select customer_id, {{ cdp.cdp_trait_state('sum', 'total') }} as state
from {{ ref('raw_orders') }} where status = 'paid' group by customer_id
