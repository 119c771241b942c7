{{ config(materialized='cdp_trait', aggregate='count', event='Order Completed') }}
-- depends_on: {{ ref('orders') }}
1
