{{ config(materialized='cdp_trait', aggregate='sum', event='Order Completed') }}
-- depends_on: {{ ref('orders') }}
(properties->>'total')::numeric
